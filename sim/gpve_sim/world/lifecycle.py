"""A trace at lifecycle fidelity: every guest goes through the engine's own flows against simulated nodes.

A guest arrives: it is created and started. Its life begins when it runs; an agent is paused while it is idle; at the
end a guest is stopped and deleted. A node that joins is opened, one that is drained sends its VMs elsewhere.
Decisions are those of the compiled core, guest by guest, on the very classes, group rules and lots of a replay at
placement fidelity; so where nothing takes time and nothing fails, both place every guest on the same node and devices.

At equal times: departures in the order of the trace, then changes of nodes, then a round of the queue, then arrivals in
file order, then deadlines. The tasks of an event are driven as far as they come at that moment before the next event is
looked at.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpve.model.columns import FOREVER, Nodes
from gpve.model.errors import InputError
from gpve.scheduler.cluster import check_models
from gpve.scheduler.policy import Policy
from gpve.tasks.ledger import Row
from gpve_sim.driver import MODES
from gpve_sim.trace import Trace
from gpve_sim.world.drive import NEVER, Drive, Order
from gpve_sim.world.lived import Lifecycle
from gpve_sim.world.outages import Failures
from gpve_sim.world.profile import NO_TIME, Profile

NO_FAILURES = Failures()


def replay_lifecycle(
    trace: Trace,
    policy: Policy,
    *,
    nodes: Nodes | None = None,
    seed: int = 0,
    profile: Profile = NO_TIME,
    queue: str = "drop",
    failures: Failures = NO_FAILURES,
    progress: Callable[[int, int], None] | None = None,
) -> Lifecycle:
    """Replay ``trace`` through the task engine.

    ``queue``: what becomes of a guest that does not fit, as at placement fidelity: ``drop``, ``wait`` or ``backfill``.
    ``failures``: what fails how often. Raises `InputError`.
    """
    nodes = trace.nodes if nodes is None else nodes
    if queue not in MODES:
        raise InputError(f"unknown queue mode {queue!r}; known: {', '.join(MODES)}")
    check_models(trace.guests, nodes)
    guests = trace.guests
    arrivals = np.argsort(guests.arrival_s, kind="stable")
    if not trace.departures:
        trace = replace(trace, guests=replace(guests, departure_s=np.full(len(guests), FOREVER)))
    drive = Drive(trace, nodes, policy, seed, profile, queue, failures)
    started = time.perf_counter()
    _play(drive, arrivals, progress)
    took = time.perf_counter() - started
    count = len(guests)
    node, devices = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    placed_s = np.full(count, np.nan)
    for g, (n, bits, at) in drive.placer.placed.items():
        node[g], devices[g], placed_s[g] = n, bits, at
    return Lifecycle(
        trace,
        nodes.names,
        node,
        devices,
        placed_s,
        drive.running_s,
        len(drive.queue.waiting.keys() - drive.placer.placed.keys()),
        dict(drive.tasks),
        drive.store,
        drive.archived,
        drive.uptime,
        drive.env.now,
        drive.outages.count,
        drive.migrations,
        took,
    )


def _play(drive: Drive, arrivals: NDArray[np.int64], progress: Callable[[int, int], None] | None) -> None:
    """Hand over one event after another, the guests in the order of ``arrivals``."""
    env, ahead, queue = drive.env, drive.ahead, drive.queue
    arrival_s = [*drive.trace.guests.arrival_s[arrivals].tolist(), NEVER]
    at = 0
    while True:
        change = ahead[0][0] if ahead else NEVER
        if queue.due and min(change, env.peek()) > env.now:
            drive.ask_for_the_queue()
            continue
        arrival = arrival_s[at]
        soonest = min(change, arrival, drive.next_deadline())
        if env.peek() < soonest:
            if soonest == NEVER and not (queue.due or _work_ahead(drive)):
                break
            # What happens on the way may bring a departure forward.
            env.step()
            continue
        if soonest == NEVER:
            break
        if soonest > env.now:
            env.run(soonest)
        if change == soonest:
            _take(drive)
        elif arrival == soonest:
            drive.arrive(int(arrivals[at]))
            at += 1
            if progress is not None and at % 256 == 0:
                progress(at, len(arrivals))
        else:
            drive.give_up()
        drive.settle()


def _take(drive: Drive) -> None:
    """The next of what lies ahead."""
    _, order, row, what = heapq.heappop(drive.ahead)
    match order:
        case Order.DEPARTURE:
            drive.depart(row)
        case Order.NODE:
            drive.change_node(row)
        case Order.PHASE:
            drive.change(row, what)
        case Order.CRASH:
            drive.crash(row)
        case _:
            drive.outages.fail(what)


def _work_ahead(drive: Drive) -> bool:
    """Whether some task is still being driven, rather than waiting for a place that will not come."""
    return any(row["status"] not in ("waiting", "done", "undone") for row in _open(drive))


def _open(drive: Drive) -> list[Row]:
    return [drive.store.tables["task"][task,] for task in (*drive.flow_of, *drive.node_tasks)]
