"""A guest's stay on a node: it begins, it may be moved, it ends.

Most stays end when the trace says, in the order that was sorted beforehand; those that waiting moved stand in a heap.
"""

import numpy as np

from gpve.scheduler.compiled import kernel, outlined
from gpve.scheduler.place import claim, find, release
from gpve_sim.kernel.heap import pop, push
from gpve_sim.kernel.measure import count_in
from gpve_sim.kernel.records import advance
from gpve_sim.kernel.tables import A_AHEAD, A_DEPARTURE, A_ENDS, A_PLACED

NEVER = np.inf
AHEAD = 8


@kernel
def rule_of(load, g):
    return load.rule[g] if load.rule.shape[0] > 0 else -1


@kernel
def seek(state, policy, load, g, draw, retry):
    score, _, _, uniform, _, _ = policy
    return find(state, score, uniform, load.request_class[g], rule_of(load, g), draw, retry)


@kernel
def settle(state, policy, load, run, g, n, time, draw, move, wanted):
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


@kernel
def leave(state, policy, load, run, g, move):
    """Guest ``g`` leaves its node."""
    _, _, keep, _, keeps, _ = policy
    n = run.node_now[g]
    c = load.request_class[g]
    devices = run.devices_now[g] if run.devices.shape[0] > 0 else 0
    release(state, keep, keeps, c, rule_of(load, g), n, devices)
    count_in(state, load, run, n, c, -1, move)


@outlined
def _drop_stale_ends(run):
    """Rebuild the heap of ends: without those of stays that were cut short, and with one entry a guest.

    A guest that starts again in the moment in which its node failed ends when it would have, and stands there twice.
    """
    size = run.at[A_ENDS]
    kept = 0
    for i in range(size):
        key = run.end_keys[i]
        g = run.end_guests[i]
        if run.node_now[g] >= 0 and run.end[g] == key:
            push(run.end_keys, run.end_guests, kept, key, g)
            kept += 1
            run.end[g] = np.nan  # equals no other entry of this guest
    for i in range(kept):
        run.end[run.end_guests[i]] = run.end_keys[i]
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
def begin_run(state, policy, load, run, g, n, time, draw, wanted):
    """A guest starts (first or again) at ``time`` on node ``n``, on the devices ``wanted`` (0: the policy's choice)."""
    again = run.start.shape[0] > 0 and not np.isnan(run.start[g])
    settle(state, policy, load, run, g, n, time, draw, False, wanted)
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


@kernel
def next_departure(load, run):
    """When the next departure is (infinity: never), and whether it stands in the heap. Equal times go by guest."""
    at = run.at
    time = NEVER
    if at[A_DEPARTURE] < load.departures.shape[0]:
        time = load.departure_times[at[A_DEPARTURE]]
    if at[A_ENDS] > 0:
        key = run.end_keys[0]
        if key < time or (key == time and run.end_guests[0] < load.departures[at[A_DEPARTURE]]):
            return key, True
    return time, False


@kernel
def depart(state, policy, load, run, time, from_heap):
    """Take up what `next_departure` said: whether a guest left (its stay may have been cut short, or moved)."""
    at = run.at
    if from_heap:
        g = run.end_guests[0]
        pop(run.end_keys, run.end_guests, at[A_ENDS])
        at[A_ENDS] -= 1
        ends = run.node_now[g] >= 0 and run.end[g] == time
    else:
        g = load.departures[at[A_DEPARTURE]]
        at[A_DEPARTURE] += 1
        ahead = at[A_DEPARTURE] + AHEAD
        if ahead < load.departures.shape[0]:
            # Who departs soon lies anywhere in memory: have it fetched while there is other work.
            soon = load.departures[ahead]
            at[A_AHEAD] = run.node_now[soon] + load.request_class[soon]
        ends = run.node_now[g] >= 0 and (run.end.shape[0] == 0 or run.end[g] == time)
    if ends:
        advance(load, run, time)
        leave(state, policy, load, run, g, False)
        if run.end.shape[0] > 0:
            run.end[g] = -NEVER
    return ends
