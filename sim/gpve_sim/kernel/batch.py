"""Steps of a replay that decides arrivals in batches: the loop over batches is Python (`gpve_sim.batched`)."""

from gpve.scheduler.compiled import entry, kernel
from gpve.scheduler.place import claim, draw_of, release
from gpve_sim.kernel.guests import NEVER, begin_run, depart, next_departure, rule_of, seek
from gpve_sim.kernel.loop import log_room, next_arrival, take_arrival
from gpve_sim.kernel.measure import peaks
from gpve_sim.kernel.nodes import next_node_event, take_node_event
from gpve_sim.kernel.queue import give_up, unqueue
from gpve_sim.kernel.records import advance, fail, log, row_now
from gpve_sim.kernel.tables import DONE, DROP, LOG_FULL, QUEUED, STARTED, WAITING


@entry
def next_release(load, run):
    """Time of the next departure or node event; infinity if there is none."""
    return min(next_departure(load, run)[0], next_node_event(load, run))


@entry
def until(state, policy, load, run, time, arrivals):
    """Let everything happen up to ``time``, and the first ``arrivals`` arrivals wait.

    The order at equal times is that of `gpve_sim.kernel.loop.replay`. Returns `LOG_FULL` if the log must be made wider
    first; then it is to be called again.
    """
    while True:
        if not log_room(load, run):
            return LOG_FULL
        t_departure, from_heap = next_departure(load, run)
        t_node = next_node_event(load, run)
        t_arrival, g = next_arrival(load, run, arrivals)
        now = min(min(t_departure, t_node), t_arrival)
        if now == NEVER or now > time:
            if time < NEVER:
                advance(load, run, time)
            return DONE
        if t_departure == now:
            depart(state, policy, load, run, now, from_heap)
        elif t_node == now:
            # Nodes join and are drained; neither asks what becomes of a guest that does not fit.
            take_node_event(state, policy, load, run, DROP)
        else:
            take_arrival(state, load, run, g, now)
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


@kernel
def _start_waiting(state, policy, load, run, g, n, draw, devices, time):
    unqueue(run, g)
    begin_run(state, policy, load, run, g, n, time, draw, devices)
    if time > load.arrival[g]:
        log(run, time, g, n, STARTED, 0)


@entry
def put(state, policy, load, run, g, n, devices, time):
    """Waiting guest ``g`` starts at ``time`` on node ``n`` and these devices (bits; 0: the policy's choice)."""
    _start_waiting(state, policy, load, run, g, n, draw_of(policy[5], g), devices, time)


@entry
def settle_alone(state, policy, load, run, g, time):
    """Place waiting guest ``g`` by the heuristic; returns 0, or the reason why it fits nowhere."""
    draw = draw_of(policy[5], g)
    n = seek(state, policy, load, g, draw, False)
    if n < 0:
        return -n
    _start_waiting(state, policy, load, run, g, n, draw, 0, time)
    return 0


@entry
def drop(run, g, time, reason):
    """Waiting guest ``g`` fits nowhere, and goes."""
    unqueue(run, g)
    fail(run, g, time, reason)


@entry
def queue(run, g, time, reason):
    """Note that waiting guest ``g`` goes on waiting."""
    log(run, time, g, -1, QUEUED, reason)


@entry
def expire(run, g, time, reason):
    """Waiting guest ``g`` gives up at its deadline."""
    give_up(run, g, time, reason)


@entry
def sample(run):
    """Write a row of the timeline."""
    row_now(run, run.clock[0])
