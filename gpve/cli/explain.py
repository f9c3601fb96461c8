"""``gpve explain``: why a guest got its node, or why none."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.console import print_json, print_table, progress


def explain(
    run: Annotated[Path, typer.Argument(help="Directory that `gpve replay --out` left.")],
    guest: Annotated[str, typer.Argument(help="Name of the guest.")],
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what every node answered when GUEST arrived: counts per reason, the nearest miss, the best nodes.

    The run is repeated up to that moment.

    Example: gpve explain out/fgd openb-pod-0255
    """
    from gpve_sim.explain import explain_guest

    with progress("replaying up to the guest") as show:
        told = explain_guest(run, guest, show)
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
