"""``gpve compare`` and ``gpve lab``: policies side by side, with a report."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import print_json, print_table, progress

if TYPE_CHECKING:
    import pandas as pd
    from gpve_sim.comparison import Comparison

LAB_POLICIES = ("fgd", "best-fit", "fgd23-dotprod", "gpu-packing", "worst-fit", "random")


def compare(
    trace: Annotated[str, typer.Argument(help="Name or path of a trace.")],
    policy: Annotated[
        list[str], typer.Option("--policy", help="Policy, or-tools, or file.py:name; repeat it, or separate by ,")
    ],
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 5,
    vary: Annotated[
        str, typer.Option(help="What seeds vary: any of arrivals,ties,lifetimes.")
    ] = "arrivals,ties,lifetimes",
    nodes: Annotated[list[str] | None, typer.Option("--nodes", help="Cluster; repeat it to compare clusters.")] = None,
    departures: Annotated[bool | None, typer.Option("--departures/--no-departures", help="Whether guests end.")] = None,
    queue: Annotated[str, typer.Option(help="What does not fit: drop, wait or backfill.")] = "drop",
    baseline: Annotated[str | None, typer.Option(help="What to compare with; the first policy.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for report.html and runs.csv.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Compare policies (and clusters) on TRACE over several seeds, with paired confidence intervals.

    Example: gpve compare openb/default --policy fgd,best-fit,worst-fit --no-departures --seeds 10 --out out/compare
    """
    from gpve_sim.comparison import compare as compare_policies
    from gpve_sim.results import output_directory

    if out is not None:
        output_directory(out)
    names = [name for group in policy for name in group.split(",") if name]
    with progress("comparing") as show:
        found = compare_policies(
            trace, names, clusters=nodes, seeds=seeds, varied=[v for v in vary.split(",") if v],
            departures=departures, queue=queue, baseline=baseline, progress=show,
        )  # fmt: skip
    tell(found, out, json)


def lab(
    out: Annotated[Path, typer.Option(help="Directory for the report, plots and table.")] = Path("out/lab"),
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Replay a generated GPU trace under several policies: the first thing to run. Needs no data and no network.

    Example: gpve lab --out out/lab
    """
    from gpve_sim.comparison import compare as compare_policies
    from gpve_sim.results import output_directory

    output_directory(out)
    typer.echo("  workload               generated/openb-like (see traces/README.md)", err=json)
    typer.echo("  compiling              once, up to a minute; then kept", err=json)
    with progress("replaying") as show:
        found = compare_policies("generated/openb-like", LAB_POLICIES, seeds=seeds, progress=show)
    tell(found, out, json)
    if not json:
        typer.echo("  next                   gpve compare --help, notebooks/01_first_replay.ipynb")


def tell(found: "Comparison", out: Path | None, json: bool) -> None:
    """Print a comparison, and leave its files."""
    from gpve_sim.measures import MEASURES
    from gpve_sim.plots import save_figure
    from gpve_sim.results import write_atomically

    means, deviations, differences = found.table(), found.deviations(), found.differences()
    if out is not None:
        found.report(out / "report.html")
        write_atomically(out / "runs.csv", lambda path: found.runs.to_csv(path, index=False))
        write_atomically(out / "table.csv", lambda path: means.to_csv(path))
        write_atomically(out / "deviations.csv", lambda path: deviations.to_csv(path))
        write_atomically(out / "differences.csv", lambda path: differences.to_csv(path, index=False))
        for measure in ("gpu_pct", "fragmentation_pct", "active_nodes"):
            if measure in found.curves.columns:
                write_atomically(out / f"{measure}.png", partial(save_figure, found.plot(measure)))
    if json:
        tables = {"rows": means.reset_index(), "deviations": deviations.reset_index(), "differences": differences}
        told = {name: _records(table) for name, table in tables.items()}
        print_json({"trace": found.trace, "baseline": found.baseline, "varied": list(found.varied), **told})
        return
    shown = [m for m in MEASURES if m.name in means.columns and m.short]
    header = ("policy", *(m.short for m in shown))
    lines = [(str(row), *(f"{means.at[row, m.name]:,.{m.digits}f}" for m in shown)) for row in means.index]
    seeds = found.runs["seed"].nunique()
    print_table(f"{found.trace}: means of {seeds} seeds", lines, header)
    if seeds > 1 and len(means) > 1:
        pairs = differences.set_index(["row", "measure"])
        lines = [
            (str(row), *(_interval(pairs.loc[(row, m.name)], m.digits) for m in shown))
            for row in means.index
            if row != found.baseline
        ]
        print_table(f"difference from {found.baseline}: 95 % interval, paired by seed", lines, header)
    if out is not None:
        typer.echo(f"  report                 {out}/report.html")


def _records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a table for JSON, which has no NaN."""
    return [{k: None if v != v else v for k, v in row.items()} for row in table.to_dict("records")]


def _interval(pair: "pd.Series[Any]", digits: int) -> str:
    """As +1.20 ± 0.30."""
    mean, high = float(pair["mean"]), float(pair["high"])
    return "-" if mean != mean else f"{mean:+,.{digits}f} ± {high - mean:,.{digits}f}"
