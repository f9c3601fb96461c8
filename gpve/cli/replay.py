"""``gpve replay``: a trace over a cluster under one policy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import finite, print_json, print_table, progress
from gpve.cli.lifecycle import replay_lifecycle

if TYPE_CHECKING:
    from gpve_sim.results import Summary

Trace = Annotated[str, typer.Argument(help="Name (openb/default) or path; .gz is read as it is. See: gpve traces list")]
NodesFile = Annotated[str | None, typer.Option("--nodes", help="Cluster: a name or a file, openb's columns or ours.")]
Reader = Annotated[str | None, typer.Option(help="Reader for a path whose format is not recognised.")]
Seed = Annotated[int, typer.Option(help="Seed of whatever is drawn.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]

FIDELITIES = ("placement", "lifecycle")
EXAMPLE = """
Example: gpve replay openb/default --policy fgd --no-departures --out out/fgd
"""


def replay(
    trace: Trace,
    policy: Annotated[str, typer.Option(help="Placement policy; see docs/reference/policies.md")] = "best-fit",
    nodes: NodesFile = None,
    reader: Reader = None,
    mapping: Annotated[
        str | None,
        typer.Option(help="Columns of your own CSV: id=vm,arrival_s=start,cpu_milli=cores*1000, or a TOML."),
    ] = None,
    departures: Annotated[bool | None, typer.Option("--departures/--no-departures", help="Whether guests end.")] = None,
    queue: Annotated[str, typer.Option(help="What does not fit: drop, wait (first come) or backfill.")] = "drop",
    arrivals: Annotated[
        Path | None,
        typer.Option(help="Guest names in order of arrival; X-tuned-N copies X. No departures then."),
    ] = None,
    node_order: Annotated[Path | None, typer.Option(help="Node names in tie-break order.")] = None,
    seed: Seed = 0,
    batch_window: Annotated[
        float | None, typer.Option(help="or-tools, with departures: seconds of one batch (60).", callback=finite)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="or-tools, without departures: arrivals of one batch (50).")
    ] = None,
    fidelity: Annotated[
        str, typer.Option(help="placement: arrivals and departures; lifecycle: every step, through the task engine.")
    ] = "placement",
    durations: Annotated[
        str, typer.Option(help="At lifecycle fidelity, how long steps take: default or none.")
    ] = "default",
    node_mtbf: Annotated[
        float | None,
        typer.Option(help="At lifecycle fidelity: mean hours between losses of power of a node.", callback=finite),
    ] = None,
    node_mttr: Annotated[
        float, typer.Option(help="Mean minutes until a node has power again.", callback=finite)
    ] = 10.0,
    agent_mtbf: Annotated[
        float | None,
        typer.Option(help="At lifecycle fidelity: mean hours between crashes of an agent.", callback=finite),
    ] = None,
    ha: Annotated[bool, typer.Option("--ha/--no-ha", help="Restart guests elsewhere when their node dies.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Directory for placements, summary, timeline, events, plots.")
    ] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw PNGs into --out.")] = True,
    json: AsJson = False,
) -> None:
    """Replay TRACE over a cluster under one placement policy."""
    from gpve_sim.experiment import Experiment, run
    from gpve_sim.results import files_of, output_directory, summary, write_together

    from gpve.model.errors import InputError

    if fidelity not in FIDELITIES:
        raise InputError(f"no fidelity {fidelity!r}; say {' or '.join(FIDELITIES)}")
    if fidelity != "lifecycle" and (node_mtbf is not None or agent_mtbf is not None):
        raise InputError("--node-mtbf and --agent-mtbf are played at --fidelity lifecycle alone")
    if out is not None:
        output_directory(out)
    experiment = Experiment(
        trace=trace, policy=policy, nodes=nodes, reader=reader, mapping=mapping, departures=departures, queue=queue,
        arrivals=str(arrivals) if arrivals else None, node_order=str(node_order) if node_order else None, seed=seed,
        batch_window=batch_window, batch_size=batch_size,
    )  # fmt: skip
    if fidelity == "lifecycle":
        replay_lifecycle(experiment, durations, (node_mtbf, node_mttr, agent_mtbf, ha), out, json)
        return
    with progress(f"replaying {policy}") as show:
        replayed = run(experiment, progress=show)
    if out is not None:
        files = files_of(replayed, experiment.arguments())
        if plots:
            from gpve_sim.plots import plots_of

            files |= plots_of(replayed)
        write_together(out, files)
    said = summary(replayed)
    if json:
        print_json(said)
    else:
        print_summary(said, out)


replay.__doc__ = (replay.__doc__ or "") + "\n" + EXAMPLE


def _share(part: Any, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "-"


def print_summary(said: "Summary", out: Path | None) -> None:
    """The summary as a small table."""
    capacity = said["capacity"]
    rows = [
        ("guests arrived", f"{said['arrivals']:,}"),
        ("placed / failed / waiting", f"{said['placed']:,} / {said['failed']:,} / {said['waiting']:,}"),
    ]
    for reason, count in said["failed_by_reason"].items():
        rows.append((f"  failed: {reason.replace('_', ' ')}", f"{count:,}"))
    for name, key in (("CPU", "cpu_milli"), ("memory", "memory_mib"), ("GPU", "gpu_milli")):
        if said[f"used_{key}"] is not None:
            end, peak = (
                _share(said[f"used_{key}"], capacity[key]),
                _share(said[f"used_{key}_peak"], capacity[key]),
            )
            rows.append((f"{name} allocated at the end / peak", f"{end} / {peak}"))
    if said["fragmentation_milli"] is not None:
        rows.append(
            (
                "GPU fragments at the end, of the cluster",
                _share(said["fragmentation_milli"], capacity["gpu_milli"]),
            )
        )
    rows.append(
        (
            "active nodes at the end / peak / of",
            f"{said['active_nodes']:,} / {said['active_nodes_peak']:,} / {said['nodes']:,}",
        )
    )
    if said["wait_s"]:
        rows.append(("waited, mean / p99", f"{said['wait_s']['mean']:,.0f} s / {said['wait_s']['p99']:,.0f} s"))
    rate = said["placements_per_s"]
    rows.append(("replayed in", f"{said['replay_s']:.3f} s ({rate:,} placements/s)" if rate else "-"))
    if out is not None:
        rows.append(("written to", str(out)))
    print_table(f"{said['trace']} under {said['policy']}", rows)
