"""``gpve consolidate``: which migrations empty nodes of a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.console import finite, print_json, print_table, progress


def consolidate(
    run: Annotated[Path, typer.Argument(help="Directory that `gpve replay --out` left.")],
    budget: Annotated[int, typer.Option(help="Most migrations.")],
    at: Annotated[
        float | None, typer.Option(help="Seconds on the trace's clock; the end of the run.", callback=finite)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Plan at most BUDGET migrations that empty as many nodes as they can: moves in order, cost, state after.

    Example: gpve consolidate out/fgd --at 86400 --budget 20
    """
    from gpve_sim.consolidation import plan_of

    with progress("replaying") as show:
        plan = plan_of(run, at, budget, show)
    if json:
        print_json(plan)
        return
    if plan["moves"]:
        moves = [(m["guest"], m["from"], m["to"], m["devices"]) for m in plan["moves"]]
        print_table(f"moves at {plan['at_s']:,.0f} s, in order", moves, ("guest", "from", "to", "devices"))
    typer.echo(f"  cost                   {len(plan['moves'])} moves, {plan['memory_moved_mib']:,} MiB")
    typer.echo(f"  active nodes           {plan['active_before']:,} before, {plan['active_after']:,} after")
    typer.echo(f"  answer                 {plan['status']}")
