"""The queues of guests that wait: one for each kind of equal guests, linked in the order of arrival."""

import numpy as np

from gpve.scheduler.compiled import kernel, outlined
from gpve.scheduler.place import draw_of
from gpve_sim.kernel.guests import NEVER, begin_run, seek
from gpve_sim.kernel.heap import push
from gpve_sim.kernel.records import log
from gpve_sim.kernel.tables import (
    A_ACTIVE_BUCKETS,
    A_DEADLINES,
    A_FAILED,
    EXPIRED,
    RESTARTED,
    STARTED,
    WAIT,
    WAITING,
)


@outlined
def enqueue(load, run, g):
    """Put a guest into its queue, in the order of arrival."""
    b = load.bucket[g]
    run.waits[g] = 1
    run.now[WAITING] += 1
    if run.head[b] < 0:
        run.active[run.at[A_ACTIVE_BUCKETS]] = b
        run.at[A_ACTIVE_BUCKETS] += 1
        run.head[b] = g
        run.tail[b] = g
        run.next_waiting[g] = -1
    elif load.rank[run.tail[b]] < load.rank[g]:
        run.next_waiting[run.tail[b]] = g
        run.next_waiting[g] = -1
        run.tail[b] = g
    elif load.rank[g] < load.rank[run.head[b]]:
        run.next_waiting[g] = run.head[b]
        run.head[b] = g
    else:
        at = run.head[b]
        while load.rank[run.next_waiting[at]] < load.rank[g]:
            at = run.next_waiting[at]
        run.next_waiting[g] = run.next_waiting[at]
        run.next_waiting[at] = g
    if load.deadline.shape[0] > 0 and load.deadline[g] < NEVER and np.isnan(run.start[g]):
        push(run.deadline_keys, run.deadline_guests, run.at[A_DEADLINES], load.deadline[g], g)
        run.at[A_DEADLINES] += 1


@kernel
def unqueue(run, g):
    """Guest ``g`` waits no longer; its place in the queue goes when it comes to the front (`first_waiting`)."""
    run.waits[g] = 0
    run.now[WAITING] -= 1


@kernel
def give_up(run, g, time, reason):
    """Waiting guest ``g`` is not waited for any longer."""
    unqueue(run, g)
    run.at[A_FAILED] += 1
    run.reasons[reason] += 1
    log(run, time, g, -1, EXPIRED, reason)


@outlined
def first_waiting(load, run, in_round):
    """The queue whose first guest is next, of those that have not failed in this round; -1 if none is left.

    Guests that left (started or expired) are dropped from the heads, and empty queues from the list, on the way.
    """
    best = -1
    i = 0
    while i < run.at[A_ACTIVE_BUCKETS]:
        b = run.active[i]
        while run.head[b] >= 0 and run.waits[run.head[b]] == 0:
            run.head[b] = run.next_waiting[run.head[b]]
        if run.head[b] < 0:
            run.at[A_ACTIVE_BUCKETS] -= 1
            run.active[i] = run.active[run.at[A_ACTIVE_BUCKETS]]
            continue
        i += 1
        if run.failed_round[b] == in_round:
            continue
        if (
            best < 0
            or load.bucket_priority[b] > load.bucket_priority[best]
            or (
                load.bucket_priority[b] == load.bucket_priority[best]
                and load.rank[run.head[b]] < load.rank[run.head[best]]
            )
        ):
            best = b
    return best


@outlined
def retry(state, policy, load, run, time, mode, in_round):
    """Start what can start now, in the order of priority and arrival; `WAIT` stops at the first that does not fit."""
    seed = policy[5]
    while True:
        b = first_waiting(load, run, in_round)
        if b < 0:
            return
        g = run.head[b]
        draw = draw_of(seed, g)
        n = seek(state, policy, load, g, draw, True)
        if n < 0:
            if mode == WAIT:
                return
            run.failed_round[b] = in_round
            continue
        unqueue(run, g)
        again = not np.isnan(run.start[g])
        begin_run(state, policy, load, run, g, n, time, draw, 0)
        log(run, time, g, n, RESTARTED if again else STARTED, 0)
