"""``gpve size``: the smallest cluster of one type of node that takes a trace."""

from typing import Annotated

import typer

from gpve.cli.console import print_json, print_table, progress


def size(
    trace: Annotated[str, typer.Argument(help="Name or path of a trace.")],
    node: Annotated[str, typer.Option(help="Type of node, as in `gpve nodes generate`: 96c,384G or 96c,384G,8xV100.")],
    policy: Annotated[str, typer.Option(help="Placement policy.")] = "best-fit",
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Find the fewest nodes of one type on which TRACE runs without a failure.

    Found by bisection over the number of nodes and confirmed one below; the lower bound by sums is shown beside.

    Example: gpve size azure-vm-2017/dev --node 64c,448G
    """
    from gpve_sim.size import smallest

    with progress("sizing") as show:
        found = smallest(trace, node, policy, seed, show)
    if json:
        print_json(found)
        return
    rows = [
        ("nodes", f"{found['nodes']:,}"),
        ("lower bound (peak demand / one node)", f"{found['lower_bound']:,}"),
        ("failures with one node less", f"{found['failed_with_one_less']:,}"),
        ("replays", f"{found['replays']}"),
    ]
    print_table(f"{trace} under {policy} on {node}", rows)
