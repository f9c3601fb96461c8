"""A run at lifecycle fidelity as the command line names it, and its files."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from gpve.model.errors import InputError
from gpve.scheduler.policy import Policy
from gpve_sim.catalogue import load
from gpve_sim.experiment import Experiment, inputs
from gpve_sim.policies import Batching, find_decider
from gpve_sim.results import device_text
from gpve_sim.trace import Trace
from gpve_sim.world.lifecycle import NO_FAILURES, replay_lifecycle
from gpve_sim.world.lived import Lifecycle
from gpve_sim.world.outages import Failures
from gpve_sim.world.profile import NO_TIME, Profile


def lifecycle(
    trace: str | Trace,
    policy: str | Policy = "best-fit",
    *,
    timed: bool = True,
    seed: int = 0,
    queue: str = "drop",
    failures: Failures = NO_FAILURES,
) -> Lifecycle:
    """Replay ``trace`` (a name, a path or a `Trace`) through the task engine; ``timed``: with the default durations.

    Raises `InputError`.
    """
    loaded = load(trace, seed=seed) if isinstance(trace, str) else trace
    decider = find_decider(policy) if isinstance(policy, str) else policy
    if isinstance(decider, Batching):
        raise InputError(f"the policy {policy} is played at placement fidelity alone")
    profile = Profile(seed=seed) if timed else NO_TIME
    return replay_lifecycle(loaded, decider, seed=seed, profile=profile, queue=queue, failures=failures)


def run_lifecycle(
    experiment: Experiment,
    *,
    timed: bool = True,
    failures: Failures = NO_FAILURES,
    progress: Callable[[int, int], None] | None = None,
) -> Lifecycle:
    """Replay what the command line names. ``timed``: with the default durations, else nothing takes any time."""
    decider = find_decider(experiment.policy)
    if isinstance(decider, Batching):
        raise InputError(f"the policy {experiment.policy} is played at --fidelity placement alone")
    trace, nodes, _ = inputs(experiment)
    if experiment.departures is not None:
        trace = replace(trace, departures=experiment.departures)
    return replay_lifecycle(
        trace,
        decider,
        nodes=nodes,
        seed=experiment.seed,
        profile=Profile(seed=experiment.seed) if timed else NO_TIME,
        queue=experiment.queue,
        failures=failures,
        progress=progress,
    )


def files_of(played: Lifecycle) -> dict[str, Callable[[Path], Any]]:
    """placements.csv (in order of arrival), summary.json, and log.parquet, the logs of all tasks."""
    return {
        "placements.csv": lambda path: _write_placements(played, path),
        "summary.json": lambda path: path.write_text(json.dumps(played.summary(), indent=2) + "\n"),
        "log.parquet": lambda path: parquet.write_table(played.table("event"), path),
    }


def _write_placements(played: Lifecycle, path: Path) -> None:
    guests = played.trace.guests
    names = guests.ids.to_pylist()
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["guest", "node", "devices"])
        for g in np.argsort(guests.arrival_s, kind="stable").tolist():
            n = int(played.node[g])
            writer.writerow([names[g], played.names[n] if n >= 0 else "", device_text(int(played.devices[g]))])
