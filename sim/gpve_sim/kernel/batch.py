"""Steps of a replay that decides arrivals in batches: the loop over batches is Python (`gpve_sim.batched`)."""

from gpve.scheduler.compiled import entry
from gpve.scheduler.place import claim, draw_of, release
from gpve_sim.kernel.heap import pop
from gpve_sim.kernel.loop import (
    NEVER,
    advance,
    begin_run,
    fail,
    leave,
    log,
    node_event,
    row_now,
    rule_of,
    runs,
    seek,
)
from gpve_sim.kernel.measure import peaks
from gpve_sim.kernel.tables import (
    A_ARRIVAL,
    A_DEPARTURE,
    A_ENDS,
    A_FAILED,
    A_LOG,
    A_NODE_EVENT,
    DONE,
    DROP,
    EXPIRED,
    LOG_FULL,
    QUEUED,
    RUNNING,
    STARTED,
    WAITING,
)


@entry
def next_release(load, run):
    """Time of the next departure or node event; infinity if there is none."""
    at = run.at
    time = NEVER
    if at[A_DEPARTURE] < load.departures.shape[0]:
        time = load.departure[load.departures[at[A_DEPARTURE]]]
    if at[A_ENDS] > 0:
        time = min(time, run.end_keys[0])
    if at[A_NODE_EVENT] < load.event_time.shape[0]:
        time = min(time, load.event_time[at[A_NODE_EVENT]])
    return time


@entry
def until(state, policy, load, run, time, arrivals):
    """Let everything happen up to ``time``, and the first ``arrivals`` arrivals wait.

    The order at equal times is that of `gpve_sim.kernel.loop.replay`. Returns `LOG_FULL` if the log must be made wider
    first; then it is to be called again.
    """
    at = run.at
    while True:
        most = 4
        if load.event_time.shape[0] > 0:
            most += 2 * int(run.now[RUNNING])
        if run.log.shape[0] - at[A_LOG] < most:
            return LOG_FULL
        t_departure = NEVER
        from_heap = False
        if at[A_DEPARTURE] < load.departures.shape[0]:
            t_departure = load.departure[load.departures[at[A_DEPARTURE]]]
        if at[A_ENDS] > 0 and run.end_keys[0] < t_departure:
            t_departure = run.end_keys[0]
            from_heap = True
        t_node = load.event_time[at[A_NODE_EVENT]] if at[A_NODE_EVENT] < load.event_time.shape[0] else NEVER
        t_arrival = NEVER
        g = -1
        if at[A_ARRIVAL] < arrivals:
            g = load.order[at[A_ARRIVAL]] if load.order.shape[0] > 0 else at[A_ARRIVAL]
            t_arrival = load.arrival[g]
        now = min(min(t_departure, t_node), t_arrival)
        if now == NEVER or now > time:
            if time < NEVER:
                advance(load, run, time)
            return DONE
        if t_departure == now:
            if from_heap:
                g = run.end_guests[0]
                pop(run.end_keys, run.end_guests, at[A_ENDS])
                at[A_ENDS] -= 1
                ends = run.node_now[g] >= 0 and run.end[g] == now
            else:
                g = load.departures[at[A_DEPARTURE]]
                at[A_DEPARTURE] += 1
                ends = runs(load, run, g)
            if ends:
                advance(load, run, now)
                leave(state, policy, load, run, g, False)
                run.end[g] = -NEVER
            continue
        advance(load, run, now)
        if t_node == now:
            at[A_NODE_EVENT] += 1
            # Nodes join and are drained; neither asks what becomes of a guest that does not fit.
            node_event(state, policy, load, run, at[A_NODE_EVENT] - 1, DROP)
            peaks(run)
            continue
        at[A_ARRIVAL] += 1
        cls = state.classes[load.request_class[g]]
        run.clock[1] += cls.gpu_count * cls.gpu_milli
        run.waits[g] = 1
        run.now[WAITING] += 1
        peaks(run)


@entry
def attempt(state, policy, load, guests, nodes, devices):
    """The heuristic's answer for the ``guests`` one by one, into ``nodes`` (-1: none) and ``devices`` (bits).

    Everything is claimed as it goes, and given back at the end.
    """
    _, device, keep, _, keeps, seed = policy
    for i in range(guests.shape[0]):
        g = guests[i]
        draw = draw_of(seed, g)
        n = seek(state, policy, load, g, draw, False)
        nodes[i] = max(n, -1)
        if n >= 0:
            c = load.request_class[g]
            devices[i] = claim(state, device, keep, keeps, c, rule_of(load, g), n, draw, 0)
    for i in range(guests.shape[0] - 1, -1, -1):
        if nodes[i] >= 0:
            g = guests[i]
            release(state, keep, keeps, load.request_class[g], rule_of(load, g), nodes[i], devices[i])


@entry
def put(state, policy, load, run, g, n, devices, time):
    """Waiting guest ``g`` starts at ``time`` on node ``n`` and these devices (bits; 0: the policy's choice)."""
    run.waits[g] = 0
    run.now[WAITING] -= 1
    begin_run(state, policy, load, run, g, n, time, draw_of(policy[5], g), devices)
    if time > load.arrival[g]:
        log(run, time, g, n, STARTED, 0)


@entry
def settle_alone(state, policy, load, run, g, time):
    """Place waiting guest ``g`` by the heuristic; returns 0, or the reason why it fits nowhere."""
    draw = draw_of(policy[5], g)
    n = seek(state, policy, load, g, draw, False)
    if n < 0:
        return -n
    run.waits[g] = 0
    run.now[WAITING] -= 1
    begin_run(state, policy, load, run, g, n, time, draw, 0)
    if time > load.arrival[g]:
        log(run, time, g, n, STARTED, 0)
    return 0


@entry
def drop(run, g, time, reason):
    """Waiting guest ``g`` fits nowhere, and goes."""
    run.waits[g] = 0
    run.now[WAITING] -= 1
    fail(run, g, time, reason)


@entry
def queue(run, g, time, reason):
    """Note that waiting guest ``g`` goes on waiting."""
    log(run, time, g, -1, QUEUED, reason)


@entry
def expire(run, g, time, reason):
    """Waiting guest ``g`` gives up at its deadline."""
    run.waits[g] = 0
    run.now[WAITING] -= 1
    run.at[A_FAILED] += 1
    run.reasons[reason] += 1
    log(run, time, g, -1, EXPIRED, reason)


@entry
def sample(run):
    """Write a row of the timeline."""
    row_now(run, run.clock[0])
