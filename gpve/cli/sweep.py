"""``gpve sweep``: many runs, one Parquet."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.console import progress


def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file: traces, policies, seeds, clusters, ...")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("out/sweep.parquet"),
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler; else all cores of this machine.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine.")] = None,
) -> None:
    """Run every combination that FILE names, and write one tidy Parquet. Killed, it goes on where it stood.

    Example: gpve sweep sweep.toml --out out/sweep.parquet, with in sweep.toml:
    traces = ["openb/default"]; policies = ["fgd", "best-fit"]; seeds = 10
    """
    from gpve_sim.results import output_directory
    from gpve_sim.sweep import read_sweep, run_sweep

    asked = read_sweep(file)
    output_directory(out.parent)
    with progress("sweeping") as show:
        run_sweep(asked, out, dask=dask, workers=workers, progress=show)
    typer.echo(f"written to {out}")
