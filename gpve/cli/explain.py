"""``gpve explain``: why a guest got its node, or why none."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.console import print_table, progress
from gpve.cli.output import AsJson, ContextName, Form, OfProject, Output, cluster, form_of, show


def explain(
    run: Annotated[
        str,
        typer.Argument(help="Directory that `gpve replay --out` left; or, alone, a guest of a cluster or its number."),
    ],
    guest: Annotated[str | None, typer.Argument(help="Name of the guest in that run.")] = None,
    project: OfProject = None,
    as_json: AsJson = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Why a guest is where it is, or why it waits: what every node answers, the nearest miss, the best nodes.

    Of a run of the lab it is repeated up to the guest's arrival; of a cluster every node is asked as it is now.

    Example: gpve explain out/fgd openb-pod-0255
    """
    form = form_of(output, as_json)
    if guest is None:
        _explain_live(run, project, form, context)
        return
    from gpve_sim.explain import explain_guest

    with progress("replaying up to the guest") as bar:
        told = explain_guest(Path(run), guest, bar)

    def table() -> None:
        print_table(
            f"{guest} asked for {told['request']} at {told['time_s']:,.0f} s and {told['answer']}",
            [(reason, f"{count:,}") for reason, count in told["nodes_by_reason"].items()],
            ("answer of the nodes", "nodes"),
        )
        if told["best"]:
            print_table("best nodes", [(b["node"], f"{b['score']:.6g}") for b in told["best"]], ("node", "score"))
        elif told["nearest_miss"]:
            typer.echo(f"nearest miss: {told['nearest_miss']['sentence']}")

    show(told, form, table)


def _explain_live(guest: str, project: str | None, form: Form, context: str | None) -> None:
    from gpve.model.errors import InputError

    if (Path(guest) / "summary.json").exists():
        raise InputError(f"{guest!r} is a run of the lab: say a guest of it as well")
    with cluster(context) as client:
        told = client.explain(client.get("guest", guest, project).id)

    def table() -> None:
        typer.echo(told["sentence"])
        if told["nodes"]:
            counts = [(reason, f"{count:,}") for reason, count in told["nodes"].items()]
            print_table("what the nodes say to it now", counts, ("answer of the nodes", "nodes"))
        if told["best"]:
            typer.echo(f"best nodes: {', '.join(told['best'])}")

    show(told, form, table)
