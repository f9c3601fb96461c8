"""What happens to nodes: they join, are drained, fail; and what becomes of the guests on them."""

from gpve.scheduler.compiled import kernel, outlined
from gpve.scheduler.place import draw_of, set_open
from gpve_sim.kernel.guests import NEVER, begin_run, leave, seek, settle
from gpve_sim.kernel.measure import measure, peaks
from gpve_sim.kernel.queue import enqueue
from gpve_sim.kernel.records import advance, log
from gpve_sim.kernel.tables import (
    A_LOST,
    A_MIGRATED,
    A_NODE_EVENT,
    A_REQUEUED,
    ADD,
    BLOCKED,
    DRAIN,
    DROP,
    EVICTED,
    LOST,
    MOVED,
    OPEN,
    RESTARTED,
)


@kernel
def next_node_event(load, run):
    """When the next node event is; infinity if there is none."""
    e = run.at[A_NODE_EVENT]
    return load.event_time[e] if e < load.event_time.shape[0] else NEVER


@outlined
def _node_event(state, policy, load, run, e, mode):
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
            settle(state, policy, load, run, g, target, time, draw, True, 0)
            run.at[A_MIGRATED] += 1
            log(run, time, g, target, MOVED, 0)
            continue
        leave(state, policy, load, run, g, False)
        run.node_now[g] = -1
        log(run, time, g, n, EVICTED, 0)
        if load.departure.shape[0] > 0:
            run.end[g] -= time  # what is left of its life, until it starts again
        if mode != DROP:
            enqueue(load, run, g)
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
def take_node_event(state, policy, load, run, mode):
    """Let the next node event happen; ``mode`` says what becomes of guests whose node fails."""
    e = run.at[A_NODE_EVENT]
    run.at[A_NODE_EVENT] = e + 1
    advance(load, run, load.event_time[e])
    _node_event(state, policy, load, run, e, mode)
    peaks(run)
