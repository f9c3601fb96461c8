"""Plan migrations that empty nodes of a finished run: repeat it up to a time, then ask the optimizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpve.model.errors import InputError
from gpve.scheduler.optimize.consolidate import consolidate
from gpve.scheduler.optimize.problem import Assignment, Ints
from gpve_sim.best_possible import batch_of
from gpve_sim.driver import Replayed
from gpve_sim.experiment import inputs, run
from gpve_sim.explain import read_experiment
from gpve_sim.kernel import tables as t
from gpve_sim.results import device_text


def plan_of(
    directory: Path, at_s: float | None, budget: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """The plan as a dictionary ready for JSON; ``at_s`` None: at the end of the run.

    The state is that before the first arrival after ``at_s``. Guests with group rules stay where they are: the plan
    knows nothing of their rules.
    """
    if budget < 1:
        raise InputError(f"a budget is at least 1 migration, not {budget}", column="--budget")
    experiment = read_experiment(directory)
    limit = -1
    if at_s is not None:
        times = np.sort(inputs(experiment)[0].guests.arrival_s)
        if not (len(times) and at_s >= times[0]):
            raise InputError(f"nothing has arrived by {at_s:g} s", column="--at")
        arrived = int(np.searchsorted(times, at_s, side="right"))
        limit = arrived if arrived < len(times) else -1
    replayed = run(experiment, progress, limit=limit)
    guests = _running(replayed)
    state, now = replayed.state, replayed.run
    batch = batch_of(state, replayed.requests, guests, empty=False)
    bits = now.devices_now[guests].tolist() if len(now.devices_now) else [0] * len(guests)
    uses = batch.gpu_count[batch.request_class] > 0
    devices = tuple(
        tuple(d for d in range(b.bit_length()) if used and b >> d & 1) for b, used in zip(bits, uses, strict=True)
    )
    movable = (replayed.requests.classes["gpu_count"][replayed.requests.of_guest[guests]] > 0) == uses
    if len(replayed.requests.rule_of_guest):
        movable &= replayed.requests.rule_of_guest[guests] < 0
    plan = consolidate(batch, Assignment(now.node_now[guests].astype(np.int64), devices), budget, movable=movable)
    ids, names = replayed.guests.ids, replayed.nodes.names
    return {
        "at_s": float(now.clock[0]),
        "budget": budget,
        "moves": [
            {
                "guest": ids[int(guests[m.guest])].as_py(),
                "from": names[m.source],
                "to": names[m.target],
                "devices": device_text(sum(1 << d for d in m.devices)),
            }
            for m in plan.moves
        ],
        "memory_moved_mib": plan.memory_moved_mib,
        "emptied": [names[n] for n in plan.emptied],
        "active_before": plan.active_before,
        "active_after": plan.active_after,
        "status": plan.status,
    }


def _running(replayed: Replayed) -> Ints:
    """Rows of the guests that run where the replay stopped."""
    now, load = replayed.run, replayed.load
    runs = now.node_now >= 0
    if len(now.end):
        runs &= now.end > -np.inf
    elif len(load.departure):
        runs &= load.departure > load.arrival
        runs[load.departures[: now.at[t.A_DEPARTURE]]] = False
    return np.flatnonzero(runs)
