"""``gpve redecide``: what a live cluster decided, decided again in the simulator."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.output import AsJson, Form, Output, form_of, show


def redecide(
    file: Annotated[Path, typer.Argument(help="What `gpve dump` wrote.")],
    as_json: AsJson = False,
    output: Output = Form.TABLE,
) -> None:
    """Load a cluster's dump into the simulator, audit it, and decide again every placement that its servers decided.

    Exit code 1 if a decision differs, or the audit finds something.

    Example: gpve redecide cluster.jsonl
    """
    from gpve_sim.live import read
    from gpve_sim.live import redecide as again

    told = again(read(file))

    def table() -> None:
        typer.echo(f"{told.decisions} placements in {told.calls} calls of {told.servers} schedulers, decided again")
        if told.skipped:
            typer.echo(f"{told.skipped} calls are older than what the dump has of the nodes, and were left out")
        for sentence in (*told.differing, *told.findings):
            typer.echo(sentence)
        if not told.differing:
            typer.echo("every decision is the same")

    show(told, form_of(output, as_json), table)
    if told.differing or told.findings:
        raise typer.Exit(1)
