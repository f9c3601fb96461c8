"""The loop of a replay at placement fidelity, compiled whole.

At equal times: departures, then node events, then retries of the queue, then arrivals in file order, then deadlines.
A lifetime of zero departs right after its placement. A guest that waited keeps its lifetime.
"""

import numpy as np

from gpve.model.reasons import Reason
from gpve.scheduler.columns import ERROR
from gpve.scheduler.compiled import entry, kernel
from gpve.scheduler.place import begin, draw_of
from gpve_sim.kernel.guests import NEVER, begin_run, depart, next_departure, seek
from gpve_sim.kernel.heap import pop
from gpve_sim.kernel.measure import measure, peaks
from gpve_sim.kernel.nodes import next_node_event, take_node_event
from gpve_sim.kernel.queue import enqueue, first_waiting, give_up, retry
from gpve_sim.kernel.records import advance, fail, log, row_now
from gpve_sim.kernel.tables import (
    A_ACTIVE_BUCKETS,
    A_ARRIVAL,
    A_DEADLINES,
    A_FREED,
    A_LOG,
    A_NODE_EVENT,
    A_ROUND,
    A_SAMPLE,
    A_STOP,
    AT_LIMIT,
    BAD_POLICY,
    DONE,
    DROP,
    LOG_FULL,
    OPEN,
    QUEUED,
    RUNNING,
    STOPPED,
    WAIT,
    WAITING,
)

DEADLINE = int(Reason.DEADLINE)


@entry
def start(state, policy, load, run):
    """Measure the empty cluster, and let the policy write its first state."""
    begin(state, policy[2], policy[4])
    for n in range(state.nodes.shape[0]):
        run.now[OPEN] += state.nodes[n].open
        measure(state, load, run, n)
    peaks(run)


@kernel
def next_arrival(load, run, limit):
    """When the next of the first ``limit`` arrivals is (infinity: there is none), and the guest (-1)."""
    k = run.at[A_ARRIVAL]
    if k >= limit:
        return NEVER, np.int64(-1)
    g = np.int64(load.order[k]) if load.order.shape[0] > 0 else k
    return load.arrival[g], g


@kernel
def take_arrival(state, load, run, g, time):
    """Guest ``g`` arrives: count it and what it asks for."""
    advance(load, run, time)
    run.at[A_ARRIVAL] += 1
    cls = state.classes[load.request_class[g]]
    run.clock[1] += cls.gpu_count * cls.gpu_milli


@kernel
def log_room(load, run):
    """Whether the log has room for whatever the next event can write."""
    most = 4 + int(run.now[WAITING])
    if run.at[A_NODE_EVENT] < load.event_time.shape[0]:
        most += 2 * int(run.now[RUNNING])
    return run.log.shape[0] - run.at[A_LOG] >= most


@kernel
def _arrive(state, policy, load, run, g, time, mode):
    """Place the guest that arrives, or let it wait or go."""
    at = run.at
    take_arrival(state, load, run, g, time)
    draw = draw_of(policy[5], g)
    behind = False
    if mode == WAIT and at[A_ACTIVE_BUCKETS] > 0:
        at[A_ROUND] += 1
        b = first_waiting(load, run, at[A_ROUND])
        behind = b >= 0 and load.bucket_priority[b] >= load.bucket_priority[load.bucket[g]]
    n = -1
    if not behind:
        n = seek(state, policy, load, g, draw, False)
    if n >= 0:
        begin_run(state, policy, load, run, g, n, time, draw, 0)
    elif mode == DROP:
        fail(run, g, time, -n)
    else:
        enqueue(load, run, g)
        log(run, time, g, -1, QUEUED, 0 if behind else -n)
        peaks(run)


@entry
def replay(state, policy, load, run, mode, sample_every, limit):
    """Run until all events are done, ``limit`` arrivals are done, or `A_STOP` is set; says which.

    ``policy`` is (score, device, keep, uniform, keeps, seed).
    """
    at = run.at
    while True:
        if at[A_STOP] != 0:
            return STOPPED
        if state.scalars[ERROR] != 0:
            return BAD_POLICY
        if not log_room(load, run):
            return LOG_FULL
        t_departure, from_heap = next_departure(load, run)
        t_node = next_node_event(load, run)
        t_arrival, g = next_arrival(load, run, load.arrival.shape[0])
        t_deadline = run.deadline_keys[0] if at[A_DEADLINES] > 0 else NEVER
        time = min(min(t_departure, t_node), min(t_arrival, t_deadline))

        if at[A_FREED] != 0 and min(t_departure, t_node) > run.clock[0]:
            # Everything that frees capacity at this time is done: the queue may try.
            at[A_FREED] = 0
            if at[A_ACTIVE_BUCKETS] > 0:
                at[A_ROUND] += 1
                retry(state, policy, load, run, run.clock[0], mode, at[A_ROUND])
                continue
        if time == NEVER:
            return DONE

        if t_departure == time:
            if depart(state, policy, load, run, time, from_heap):
                at[A_FREED] = 1
        elif t_node == time:
            take_node_event(state, policy, load, run, mode)
            at[A_FREED] = 1
        elif t_arrival == time:
            if at[A_ARRIVAL] == limit:
                return AT_LIMIT
            _arrive(state, policy, load, run, g, time, mode)
            if sample_every > 0 and at[A_ARRIVAL] % sample_every == 0:
                row_now(run, time)
        else:
            g = np.int64(run.deadline_guests[0])
            pop(run.deadline_keys, run.deadline_guests, at[A_DEADLINES])
            at[A_DEADLINES] -= 1
            if run.waits[g] == 1 and np.isnan(run.start[g]):
                advance(load, run, time)
                give_up(run, g, time, DEADLINE)
                if mode == WAIT:
                    at[A_FREED] = 1  # the head of the queue may have gone


@entry
def finish(load, run):
    """Write the rows of the timeline that are still due, and the last one."""
    samples = load.sample_times
    while run.at[A_SAMPLE] < samples.shape[0]:
        row_now(run, samples[run.at[A_SAMPLE]])
        run.at[A_SAMPLE] += 1
    row_now(run, run.clock[0])
