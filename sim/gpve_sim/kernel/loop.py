"""The loop of a replay at placement fidelity, compiled whole.

At equal times: departures, then node events, then retries of the queue, then arrivals in file order, then deadlines.
A lifetime of zero departs right after its placement. A guest that waited keeps its lifetime.
"""

import numpy as np

from gpve.model.reasons import Reason
from gpve.scheduler.columns import ERROR
from gpve.scheduler.compiled import entry, kernel, outlined
from gpve.scheduler.place import begin, claim, draw_of, find, release, set_open
from gpve_sim.kernel.heap import pop, push
from gpve_sim.kernel.measure import count_in, measure, peaks
from gpve_sim.kernel.tables import (
    A_ACTIVE_BUCKETS,
    A_AHEAD,
    A_ARRIVAL,
    A_DEADLINES,
    A_DEPARTURE,
    A_ENDS,
    A_FAILED,
    A_FREED,
    A_LOG,
    A_LOST,
    A_MIGRATED,
    A_NODE_EVENT,
    A_PLACED,
    A_REQUEUED,
    A_ROUND,
    A_ROWS,
    A_SAMPLE,
    A_STOP,
    ADD,
    AT_LIMIT,
    BAD_POLICY,
    BLOCKED,
    DONE,
    DRAIN,
    DROP,
    EVICTED,
    EXPIRED,
    FAILED,
    LOG_FULL,
    LOST,
    MOVED,
    OPEN,
    QUANTITIES,
    QUEUED,
    RECORDED,
    RESTARTED,
    RUNNING,
    STARTED,
    STOPPED,
    T_ARRIVED,
    T_ARRIVED_GPU,
    T_FAILED,
    T_PLACED,
    T_QUANTITIES,
    T_REASONS,
    T_TIME,
    WAIT,
    WAITING,
)

DEADLINE = int(Reason.DEADLINE)
NEVER = np.inf
AHEAD = 8


@kernel
def log(run, time, guest, node, event, reason):
    at = run.at[A_LOG]
    run.log[at, 0] = time
    run.log[at, 1] = guest
    run.log[at, 2] = node
    run.log[at, 3] = event
    run.log[at, 4] = reason
    run.at[A_LOG] = at + 1


@outlined
def row_now(run, time):
    """Write a row of the timeline."""
    at = run.at[A_ROWS]
    row = run.timeline[at]
    row[T_TIME] = time
    row[T_ARRIVED] = run.at[A_ARRIVAL]
    row[T_ARRIVED_GPU] = run.clock[1]
    row[T_PLACED] = run.at[A_PLACED]
    row[T_FAILED] = run.at[A_FAILED]
    for q in range(QUANTITIES):
        row[T_QUANTITIES + q] = run.now[q]
    for r in range(run.reasons.shape[0]):
        row[T_REASONS + r] = run.reasons[r]
    run.at[A_ROWS] = at + 1


@kernel
def advance(load, run, time):
    """Let time pass up to the next event: integrals, and the timeline rows that lie between."""
    before = run.clock[0]
    if time <= before:
        return
    samples = load.sample_times
    while run.at[A_SAMPLE] < samples.shape[0] and samples[run.at[A_SAMPLE]] < time:
        row_now(run, samples[run.at[A_SAMPLE]])
        run.at[A_SAMPLE] += 1
    passed = time - before
    for q in range(RECORDED):
        run.integral[q] += run.now[q] * passed
    run.clock[0] = time


@kernel
def rule_of(load, g):
    return load.rule[g] if load.rule.shape[0] > 0 else -1


@kernel
def _settle(state, policy, load, run, g, n, time, draw, move, wanted):
    """Place guest ``g`` on node ``n``: claim (``wanted`` as in `claim`), account, and note when it ends."""
    _, device, keep, _, keeps, _ = policy
    c = load.request_class[g]
    devices = claim(state, device, keep, keeps, c, rule_of(load, g), n, draw, wanted)
    count_in(state, load, run, n, c, 1, move)
    # Where nothing moves, both are the same arrays.
    first = run.node[g] < 0
    run.node_now[g] = n
    if run.devices.shape[0] > 0:
        run.devices_now[g] = devices
    if first:
        run.node[g] = n
        if run.devices.shape[0] > 0:
            run.devices[g] = devices


@outlined
def _drop_stale_ends(run):
    """Rebuild the heap of ends without those of runs that were cut short."""
    size = run.at[A_ENDS]
    kept = 0
    for i in range(size):
        key = run.end_keys[i]
        g = run.end_guests[i]
        if run.node_now[g] >= 0 and run.end[g] == key:
            push(run.end_keys, run.end_guests, kept, key, g)
            kept += 1
    run.at[A_ENDS] = kept


@kernel
def _end_at(load, run, g, end):
    """Note when the run in hand ends; only what departs at another time than the trace says goes to the heap."""
    if run.end.shape[0] == 0:
        return
    run.end[g] = end
    if end != load.departure[g] and end < NEVER:
        if run.at[A_ENDS] == run.end_keys.shape[0]:
            _drop_stale_ends(run)
        push(run.end_keys, run.end_guests, run.at[A_ENDS], end, g)
        run.at[A_ENDS] += 1


@kernel
def leave(state, policy, load, run, g, move):
    """Guest ``g`` leaves its node."""
    _, _, keep, _, keeps, _ = policy
    n = run.node_now[g]
    c = load.request_class[g]
    devices = run.devices_now[g] if run.devices.shape[0] > 0 else 0
    release(state, keep, keeps, c, rule_of(load, g), n, devices)
    count_in(state, load, run, n, c, -1, move)


@kernel
def seek(state, policy, load, g, draw, retry):
    score, _, _, uniform, _, _ = policy
    return find(state, score, uniform, load.request_class[g], rule_of(load, g), draw, retry)


@outlined
def _enqueue(load, run, g):
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


@outlined
def _first_waiting(load, run, in_round):
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


@kernel
def begin_run(state, policy, load, run, g, n, time, draw, wanted):
    """A guest starts (first or again) at ``time`` on node ``n``, on the devices ``wanted`` (0: the policy's choice)."""
    again = run.start.shape[0] > 0 and not np.isnan(run.start[g])
    _settle(state, policy, load, run, g, n, time, draw, False, wanted)
    if load.departure.shape[0] == 0:
        life = NEVER
    elif again:
        life = run.end[g]  # what was left when its node failed
    else:
        life = load.departure[g] - load.arrival[g]
    if not again:
        run.at[A_PLACED] += 1
        if run.start.shape[0] > 0:
            run.start[g] = time
    if life == 0.0:
        leave(state, policy, load, run, g, False)
        if run.end.shape[0] > 0:
            run.end[g] = -NEVER
        return
    if load.departure.shape[0] > 0:
        end = load.departure[g] if (not again and time == load.arrival[g]) else time + life
        _end_at(load, run, g, end)


@outlined
def _retry(state, policy, load, run, time, mode, in_round):
    """Start what can start now, in the order of priority and arrival; `WAIT` stops at the first that does not fit."""
    seed = policy[5]
    while True:
        b = _first_waiting(load, run, in_round)
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
        run.waits[g] = 0
        run.now[WAITING] -= 1
        again = not np.isnan(run.start[g])
        begin_run(state, policy, load, run, g, n, time, draw, 0)
        log(run, time, g, n, RESTARTED if again else STARTED, 0)


@outlined
def fail(run, g, time, reason):
    run.at[A_FAILED] += 1
    run.reasons[reason] += 1
    log(run, time, g, -1, FAILED, reason)


@outlined
def node_event(state, policy, load, run, e, mode):
    """A node joins, is drained, or fails."""
    time = load.event_time[e]
    kind = load.event_kind[e]
    n = load.event_node[e]
    seed = policy[5]
    if (state.nodes[n].open == 1) != (kind == ADD):
        run.now[OPEN] += 1 if kind == ADD else -1
    set_open(state, n, 1 if kind == ADD else 0)
    measure(state, load, run, n)
    if kind == ADD or state.nodes[n].guests == 0:
        return
    for g in range(run.node_now.shape[0]):
        if run.node_now[g] != n or (run.end.shape[0] > 0 and run.end[g] <= -NEVER):
            continue
        draw = draw_of(seed, g)
        if kind == DRAIN:
            # The claim on the target comes before the release of the source, as in a live migration.
            target = seek(state, policy, load, g, draw, False)
            if target < 0:
                log(run, time, g, n, BLOCKED, -target)
                continue
            leave(state, policy, load, run, g, True)
            _settle(state, policy, load, run, g, target, time, draw, True, 0)
            run.at[A_MIGRATED] += 1
            log(run, time, g, target, MOVED, 0)
            continue
        leave(state, policy, load, run, g, False)
        run.node_now[g] = -1
        log(run, time, g, n, EVICTED, 0)
        if load.departure.shape[0] > 0:
            run.end[g] -= time  # what is left of its life, until it starts again
        if mode != DROP:
            _enqueue(load, run, g)
            run.at[A_REQUEUED] += 1
            continue
        target = seek(state, policy, load, g, draw, False)
        if target < 0:
            run.at[A_LOST] += 1
            log(run, time, g, -1, LOST, -target)
            continue
        begin_run(state, policy, load, run, g, target, time, draw, 0)
        log(run, time, g, target, RESTARTED, 0)


@kernel
def runs(load, run, g):
    """Whether the guest's run ends at the departure that the trace gives."""
    if run.node_now[g] < 0:
        return False
    return run.end.shape[0] == 0 or run.end[g] == load.departure[g]


@entry
def start(state, policy, load, run):
    """Measure the empty cluster, and let the policy write its first state."""
    begin(state, policy[2], policy[4])
    for n in range(state.nodes.shape[0]):
        run.now[OPEN] += state.nodes[n].open
        measure(state, load, run, n)
    peaks(run)


@entry
def replay(state, policy, load, run, mode, sample_every, limit):
    """Run until all events are done, ``limit`` arrivals are done, or `A_STOP` is set; says which.

    ``policy`` is (score, device, keep, uniform, keeps, seed).
    """
    guests = load.arrival.shape[0]
    at = run.at
    seed = policy[5]
    while True:
        if at[A_STOP] != 0:
            return STOPPED
        if state.scalars[ERROR] != 0:
            return BAD_POLICY
        most = 4 + int(run.now[WAITING])
        if at[A_NODE_EVENT] < load.event_time.shape[0]:
            most += 2 * int(run.now[RUNNING])
        if run.log.shape[0] - at[A_LOG] < most:
            return LOG_FULL
        t_departure = NEVER
        from_heap = False
        if at[A_DEPARTURE] < load.departures.shape[0]:
            t_departure = load.departure_times[at[A_DEPARTURE]]
        if at[A_ENDS] > 0 and run.end_keys[0] < t_departure:
            t_departure = run.end_keys[0]
            from_heap = True
        t_node = load.event_time[at[A_NODE_EVENT]] if at[A_NODE_EVENT] < load.event_time.shape[0] else NEVER
        t_arrival = NEVER
        g = -1
        if at[A_ARRIVAL] < guests:
            g = load.order[at[A_ARRIVAL]] if load.order.shape[0] > 0 else at[A_ARRIVAL]
            t_arrival = load.arrival[g]
        t_deadline = run.deadline_keys[0] if at[A_DEADLINES] > 0 else NEVER
        time = min(min(t_departure, t_node), min(t_arrival, t_deadline))

        if at[A_FREED] != 0 and min(t_departure, t_node) > run.clock[0]:
            # Everything that frees capacity at this time is done: the queue may try.
            at[A_FREED] = 0
            if at[A_ACTIVE_BUCKETS] > 0:
                at[A_ROUND] += 1
                _retry(state, policy, load, run, run.clock[0], mode, at[A_ROUND])
                continue
        if time == NEVER:
            return DONE

        if t_departure == time:
            if from_heap:
                g = run.end_guests[0]
                pop(run.end_keys, run.end_guests, at[A_ENDS])
                at[A_ENDS] -= 1
                ends = run.node_now[g] >= 0 and run.end[g] == time and run.waits[g] == 0
            else:
                g = load.departures[at[A_DEPARTURE]]
                at[A_DEPARTURE] += 1
                ahead = at[A_DEPARTURE] + AHEAD
                if ahead < load.departures.shape[0]:
                    # Who departs soon lies anywhere in memory: have it fetched while there is other work.
                    soon = load.departures[ahead]
                    at[A_AHEAD] = run.node_now[soon] + load.request_class[soon]
                ends = runs(load, run, g)
            if ends:
                advance(load, run, time)
                leave(state, policy, load, run, g, False)
                if run.end.shape[0] > 0:
                    run.end[g] = -NEVER
                at[A_FREED] = 1
            continue
        if t_node == time:
            advance(load, run, time)
            at[A_NODE_EVENT] += 1
            node_event(state, policy, load, run, at[A_NODE_EVENT] - 1, mode)
            peaks(run)
            at[A_FREED] = 1
            continue
        if t_arrival == time:
            if at[A_ARRIVAL] == limit:
                return AT_LIMIT
            advance(load, run, time)
            at[A_ARRIVAL] += 1
            c = load.request_class[g]
            run.clock[1] += state.classes[c].gpu_count * state.classes[c].gpu_milli
            draw = draw_of(seed, g)
            behind = False
            if mode == WAIT and at[A_ACTIVE_BUCKETS] > 0:
                at[A_ROUND] += 1
                b = _first_waiting(load, run, at[A_ROUND])
                behind = b >= 0 and load.bucket_priority[b] >= load.bucket_priority[load.bucket[g]]
            n = -1
            if not behind:
                n = seek(state, policy, load, g, draw, False)
            if n >= 0:
                begin_run(state, policy, load, run, g, n, time, draw, 0)
            elif mode == DROP:
                fail(run, g, time, -n)
            else:
                _enqueue(load, run, g)
                log(run, time, g, -1, QUEUED, 0 if behind else -n)
                peaks(run)
            if sample_every > 0 and at[A_ARRIVAL] % sample_every == 0:
                row_now(run, time)
            continue
        g = run.deadline_guests[0]
        pop(run.deadline_keys, run.deadline_guests, at[A_DEADLINES])
        at[A_DEADLINES] -= 1
        if run.waits[g] == 1 and np.isnan(run.start[g]):
            advance(load, run, time)
            run.waits[g] = 0
            run.now[WAITING] -= 1
            run.at[A_FAILED] += 1
            run.reasons[DEADLINE] += 1
            log(run, time, g, -1, EXPIRED, DEADLINE)
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
