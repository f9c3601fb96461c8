"""A trace at lifecycle fidelity: every guest goes through the engine's own flows against simulated nodes.

A guest arrives: it is created and started. Its life begins when it runs; an agent is paused while it is idle; at the
end a guest is stopped and deleted. A node that joins is opened, one that is drained sends its VMs elsewhere.
Decisions are those of the compiled core, guest by guest, on the very classes, group rules and lots of a replay at
placement fidelity; so where nothing takes time and nothing fails, both place every guest on the same node and devices.

At equal times: departures in the order of the trace, then changes of nodes, then arrivals in file order. The tasks of
an event are driven as far as they come at that moment before the next event is looked at.
"""

import heapq
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gpve.model.columns import FOREVER, Nodes
from gpve.model.errors import InputError
from gpve.scheduler.cluster import check_models
from gpve.scheduler.policy import Policy
from gpve.tasks.ledger import Row
from gpve_sim.trace import Trace
from gpve_sim.world.drive import NEVER, Drive
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

    ``queue``: ``drop`` or ``backfill``. ``failures``: what fails how often. Raises `InputError` for the queue mode
    ``wait``, which is played at placement fidelity alone.
    """
    nodes = trace.nodes if nodes is None else nodes
    if queue not in ("drop", "backfill"):
        raise InputError(f"queue mode {queue!r} is played at --fidelity placement alone; say drop or backfill")
    check_models(trace.guests, nodes)
    guests = trace.guests
    arrivals = np.argsort(guests.arrival_s, kind="stable")
    arrival_s = [*guests.arrival_s[arrivals].tolist(), NEVER]
    if not trace.departures:
        trace = replace(trace, guests=replace(guests, departure_s=np.full(len(guests), FOREVER)))
    drive = Drive(trace, nodes, policy, seed, profile, queue, failures)
    started = time.perf_counter()
    at = 0
    while True:
        next_arrival = arrival_s[at]
        next_change = drive.ahead[0][0] if drive.ahead else NEVER
        now = min(next_arrival, next_change)
        if now == NEVER:
            busy = (drive.flow_of or drive.node_tasks) and drive.env.peek() < NEVER
            if not busy or not _work_ahead(drive):
                break
            drive.env.step()
            continue
        if drive.env.peek() < now:
            # What happens on the way may bring a departure forward.
            drive.env.step()
            continue
        if now > drive.env.now:
            drive.env.run(now)
        if next_change <= next_arrival:
            _, order, g, flow = heapq.heappop(drive.ahead)
            match order:
                case 0:
                    drive.depart(g)
                case 1:
                    drive.change_node(g, flow)
                case 2:
                    drive.change(g, flow)
                case 3:
                    drive.crash(g)
                case _:
                    drive.outages.fail(flow)
        else:
            drive.arrive(int(arrivals[at]))
            at += 1
            if progress is not None and at % 256 == 0:
                progress(at, len(arrivals))
        drive.settle()
    took = time.perf_counter() - started
    count = len(guests)
    node, devices = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for g, (n, bits) in drive.placer.placed.items():
        node[g], devices[g] = n, bits
    return Lifecycle(
        trace,
        nodes.names,
        node,
        devices,
        drive.running_s,
        dict(drive.tasks),
        drive.store,
        drive.archived,
        drive.uptime,
        drive.env.now,
        drive.outages.count,
        drive.migrations,
        took,
    )


def _work_ahead(drive: Drive) -> bool:
    """Whether some task is still being driven, rather than waiting for a place that will not come."""
    return any(row["status"] not in ("waiting", "done", "undone") for row in _open(drive))


def _open(drive: Drive) -> list[Row]:
    return [drive.store.tables["task"][task,] for task in (*drive.flow_of, *drive.node_tasks)]
