"""``gpve chaos`` and ``gpve sweep-faults``: the task engine under random mishaps, and under every two of them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail, print_json, print_table, progress

if TYPE_CHECKING:
    from gpve_sim.world.chaos import Report
    from gpve_sim.world.chaos_plan import Plan


def chaos(
    seeds: Annotated[int, typer.Option(min=1, help="How many random worlds.")] = 100,
    first: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    plan: Annotated[
        Path | None, typer.Option(help="Play this plan (JSON) instead, as written by a failing seed.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the plans of failing seeds, cut down.")] = Path("out/chaos"),
    every: Annotated[int, typer.Option(min=1, help="Transactions between two looks at the logs.")] = 40,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Random worlds, operations and faults by seed; whatever must always be true is looked at all the time.

    A seed that fails is cut down to few operations and few faults. Exit code 1 if something was found.
    Example: gpve chaos --seeds 1000 --out out/chaos
    """
    from gpve_sim.world.chaos import run_plan
    from gpve_sim.world.chaos_plan import make_plan, read_plan

    plans = [read_plan(plan)] if plan is not None else (make_plan(seed) for seed in range(first, first + seeds))
    count = 1 if plan is not None else seeds
    reports = []
    with progress("playing") as show:
        for done, one in enumerate(plans, 1):
            report = run_plan(one, every)
            reports.append(report)
            if report.findings and not as_json:
                _tell(report, one)
            if report.findings and plan is None:
                _cut_down(one, report, every, out, as_json)
            show(done, count)
    _sum_up(reports, as_json)
    if any(report.findings for report in reports):
        raise typer.Exit(1)


def _tell(report: "Report", plan: "Plan") -> None:
    print(f"seed {report.seed}: {report.findings[0]}", *report.findings[1:], sep="\n  ")
    print(f"  (operations: {len(plan.wishes)}, faults: {len(plan.mishaps)})")


def _cut_down(plan: "Plan", report: "Report", every: int, out: Path, quiet: bool) -> None:
    from gpve_sim.results import output_directory
    from gpve_sim.world.chaos import run_plan
    from gpve_sim.world.shrink import shrink, told

    smaller = shrink(plan, lambda one: run_plan(one, every).findings)
    output_directory(out)
    file = out / f"seed-{report.seed}.json"
    file.write_text(smaller.text())
    if not quiet:
        print(f"  cut down (operations: {len(smaller.wishes)}, faults: {len(smaller.mishaps)}):")
        print(*(f"  {line}" for line in told(smaller)), sep="\n")
        print(f"  replay it: gpve chaos --plan {file}")


def _sum_up(reports: "list[Report]", as_json: bool) -> None:
    from gpve_sim.world.chaos import summary

    if as_json:
        print_json([summary(report) for report in reports])
        return
    figures: dict[str, int] = {}
    for report in reports:
        said = summary(report)
        for name in ("answers", "refused", "mishaps", "resumed", "transactions"):
            figures[name] = figures.get(name, 0) + said[name]
        for status, count in report.tasks.items():
            figures[f"tasks {status}"] = figures.get(f"tasks {status}", 0) + count
    figures["worlds with findings"] = sum(bool(report.findings) for report in reports)
    print_table(f"{len(reports)} worlds", [(name, f"{count:,}") for name, count in figures.items()])


def sweep_faults(
    flow: Annotated[list[str] | None, typer.Option(help="Only this flow; may be given several times.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; else one for each core.")] = None,
    dask: Annotated[str | None, typer.Option(help="Address of a Dask scheduler to run on; else this machine.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the finished parts.")] = Path("out/sweep-faults"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Every flow under every single fault and every two. Killed, it goes on where it stood. Exit code 1 on findings.

    Example: gpve sweep-faults --flow vm_migrate --out out/sweep-faults
    """
    from dataclasses import asdict

    from gpve_sim.results import output_directory
    from gpve_sim.world.sweeping import sweep_faults as run
    from gpve_sim.world.sweeping import total

    from gpve.tasks.flows import FLOWS

    output_directory(out)
    with progress("sweeping") as show:
        by_flow = run(flow or FLOWS.names, out, workers, dask=dask, progress=show)
    together = total(by_flow)
    if as_json:
        print_json({"total": asdict(together), "flows": {name: asdict(f) for name, f in by_flow.items()}})
    else:
        rows = [(name, *_cells(figures)) for name, figures in by_flow.items()]
        header = ("flow", "worlds", "all fired", "done", "undone", "stuck", "with findings")
        print_table("worlds with one fault and with two", [*rows, ("total", *_cells(together))], header)
        for finding in together.findings[:20]:
            print(json.dumps(finding))
    if together.wrong or together.stuck:
        fail(f"{together.wrong} worlds with findings, {together.stuck} stuck", code=1)


def _cells(figures: Any) -> tuple[str, ...]:
    counted = (figures.worlds, figures.fired, figures.done, figures.undone, figures.stuck, figures.wrong)
    return tuple(f"{count:,}" for count in counted)
