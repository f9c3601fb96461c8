"""``gpve explain``: why a guest got its node, or why none."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.console import print_json, print_table, progress


def explain(
    run: Annotated[
        str,
        typer.Argument(help="Directory that `gpve replay --out` left; or, alone, a guest of a cluster or its number."),
    ],
    guest: Annotated[str | None, typer.Argument(help="Name of the guest in that run.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Why a guest is where it is, or why it waits: what every node answers, the nearest miss, the best nodes.

    Of a run of the lab it is repeated up to the guest's arrival; of a cluster every node is asked as it is now.

    Example: gpve explain out/fgd openb-pod-0255
    """
    if guest is None:
        _explain_live(run, json)
        return
    from gpve_sim.explain import explain_guest

    with progress("replaying up to the guest") as show:
        told = explain_guest(Path(run), guest, show)
    if json:
        print_json(told)
        return
    print_table(
        f"{guest} asked for {told['request']} at {told['time_s']:,.0f} s and {told['answer']}",
        [(reason, f"{count:,}") for reason, count in told["nodes_by_reason"].items()],
        ("answer of the nodes", "nodes"),
    )
    if told["best"]:
        print_table("best nodes", [(b["node"], f"{b['score']:.6g}") for b in told["best"]], ("node", "score"))
    elif told["nearest_miss"]:
        typer.echo(f"nearest miss: {told['nearest_miss']['sentence']}")


def _explain_live(guest: str, as_json: bool) -> None:
    from gpve.cli.output import cluster
    from gpve.model.errors import InputError

    if (Path(guest) / "summary.json").exists():
        raise InputError(f"{guest!r} is a run of the lab: say a guest of it as well")
    with cluster(None) as client:
        told = client.explain(client.get("guest", guest).id)
    if as_json:
        print_json(told)
        return
    typer.echo(told["sentence"])
    if told["nodes"]:
        counts = [(reason, f"{count:,}") for reason, count in told["nodes"].items()]
        print_table("a place for it now", counts, ("answer of the nodes", "nodes"))
    if told["best"]:
        typer.echo(f"best nodes: {', '.join(told['best'])}")
