"""``gpve replay --fidelity lifecycle``: what it prints and writes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpve.cli.console import print_json, print_table, progress

if TYPE_CHECKING:
    from gpve_sim.experiment import Experiment

DURATIONS = ("default", "none")
NEVER = float("inf")


def replay_lifecycle(
    experiment: "Experiment",
    durations: str,
    failing: tuple[float | None, float, float | None, bool],
    out: Path | None,
    as_json: bool,
) -> None:
    """Replay through the task engine. Raises `InputError`.

    ``failing``: hours between failures of a node, minutes without power, hours between crashes of an agent, whether
    guests are restarted elsewhere.
    """
    from gpve_sim.results import output_directory, write_together
    from gpve_sim.world.outages import Failures
    from gpve_sim.world.played import files_of, run_lifecycle

    from gpve.model.errors import InputError

    if durations not in DURATIONS:
        raise InputError(f"no durations {durations!r}; say {' or '.join(DURATIONS)}")
    node_mtbf, node_mttr, agent_mtbf, ha = failing
    failures = Failures(
        node_mtbf_s=NEVER if node_mtbf is None else 3600.0 * node_mtbf,
        node_mttr_s=60.0 * node_mttr,
        agent_mtbf_s=NEVER if agent_mtbf is None else 3600.0 * agent_mtbf,
        ha=ha,
        seed=experiment.seed,
    )
    if out is not None:
        output_directory(out)
    with progress(f"driving {experiment.policy}") as show:
        played = run_lifecycle(experiment, timed=durations == "default", failures=failures, progress=show)
    if out is not None:
        write_together(out, files_of(played))
    said = played.summary()
    if as_json:
        print_json(said)
    else:
        _print(said, experiment, out)


def _print(said: dict[str, Any], experiment: "Experiment", out: Path | None) -> None:
    rows = [
        ("guests arrived", f"{said['arrivals']:,}"),
        ("placed / failed / waiting", f"{said['placed']:,} / {said['failed']:,} / {said['waiting']:,}"),
    ]
    for kind, times in said["time_to_running"].items():
        rows.append((f"{kind}: time to running, p50 / p99", f"{times['p50_s']:.3f} s / {times['p99_s']:.3f} s"))
    for kind, share in said["availability"].items():
        rows.append((f"{kind}: share of its life in which it ran", f"{100 * share:.5f} %"))
    if said["node_failures"] or said["restarts"]:
        rows.append(("nodes that failed / restarts of guests", f"{said['node_failures']:,} / {said['restarts']:,}"))
    moved = said["migrations"]
    if moved["count"]:
        copying, still = moved["transfer_s"], moved["still_s"]
        rows.append(("migrations", f"{moved['count']:,}"))
        rows.append(("copying, p50 / p99", f"{copying['p50']:.3f} s / {copying['p99']:.3f} s"))
        rows.append(("standing still, p50 / p99", f"{still['p50']:.3f} s / {still['p99']:.3f} s"))
    for status, count in said["tasks"].items():
        rows.append((f"tasks {status}", f"{count:,}"))
    rows.append(("steps undone", f"{said['steps_undone']:,}"))
    rows.append(("rows of the log", f"{said['log_rows']:,}"))
    rows.append(("replayed in", f"{said['replay_s']:.3f} s ({said['guests_per_s']:,} guests/s)"))
    if out is not None:
        rows.append(("written to", str(out)))
    print_table(f"{experiment.trace} under {experiment.policy}, through the task engine", rows)
