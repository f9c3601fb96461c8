"""``gpve redecide``: what a live cluster decided, decided again in the simulator."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.console import print_json


def redecide(
    file: Annotated[Path, typer.Argument(help="What `gpve dump` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Load a cluster's dump into the simulator, audit it, and decide again every placement that its servers decided.

    Exit code 1 if a decision differs, or the audit finds something.

    Example: gpve redecide cluster.jsonl
    """
    from gpve_sim.live import read
    from gpve_sim.live import redecide as again

    told = again(read(file))
    if as_json:
        print_json(asdict(told))
    else:
        typer.echo(f"{told.decisions} placements in {told.calls} calls of {told.servers} schedulers, decided again")
        if told.skipped:
            typer.echo(f"{told.skipped} calls are older than what the dump has of the nodes, and were left out")
        for sentence in (*told.differing, *told.findings):
            typer.echo(sentence)
        if not told.differing:
            typer.echo("every decision is the same")
    if told.differing or told.findings:
        raise typer.Exit(1)
