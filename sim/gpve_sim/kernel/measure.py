"""What a node adds to the totals: fragmentation, stranding, power. Computed again only when the node changes."""

from gpve.scheduler.compiled import kernel
from gpve.scheduler.fit import fits
from gpve.scheduler.fragmentation import fragment_classes
from gpve_sim.kernel.tables import (
    ACTIVE,
    FRAG,
    FRAGMENTATION,
    POWER,
    POWER_EMPTY,
    RECORDED,
    S_FRAG,
    S_POWER,
    S_POWER_EMPTY,
    S_STRANDED,
    STRANDED,
)


@kernel
def _watts(curves, curve, load):
    """Power at a CPU load of 0..1, straight between the points of the curve."""
    steps = curves.shape[1] - 1
    at = min(max(load, 0.0), 1.0) * steps
    below = min(int(at), steps - 1)
    return curves[curve, below] + (at - below) * (curves[curve, below + 1] - curves[curve, below])


@kernel
def _strand(state, common, n, row):
    """Free capacity that no common request can use for lack of another resource, into row[7..9].

    Each resource by itself: none of the common requests fits on the node, and at least one would if this resource
    alone counted.
    """
    node = state.nodes[n]
    free_gpu = state.free_gpu[n]
    row[S_STRANDED] = 0.0
    row[S_STRANDED + 1] = 0.0
    row[S_STRANDED + 2] = 0.0
    cpu = False
    mem = False
    gpu = False
    for k in range(common.shape[0]):
        req = common[k]
        verdict = state.eligible[req.constraint, node.type]
        if fits(state.free_cpu[n], state.free_mem[n], free_gpu, node, req, verdict) == 0:
            return
        if verdict != 0:
            continue
        cpu |= 0 < req.cpu <= state.free_cpu[n]
        mem |= 0 < req.mem <= state.free_mem[n]
        if req.gpu_count > 0 and not gpu:
            enough = 0
            for g in free_gpu:
                if g >= req.gpu_milli:
                    enough += 1
            gpu = enough >= req.gpu_count
    if cpu:
        row[S_STRANDED] = state.free_cpu[n]
    if mem:
        row[S_STRANDED + 1] = state.free_mem[n]
    if gpu:
        for g in free_gpu:
            row[S_STRANDED + 2] += max(g, 0)


@kernel
def measure(state, load, run, n):
    """Bring the node's contributions and the totals up to date after a change. A closed node adds nothing."""
    row = run.shares[n]
    now = run.now
    node = state.nodes[n]
    gpus = state.free_gpu.shape[1] > 0
    present = node.open == 1 or node.guests > 0
    if gpus:
        for c in range(7):
            now[FRAG + c] -= row[S_FRAG + c]
            row[S_FRAG + c] = 0.0
        if node.open == 1 and node.gpu_count > 0:
            classes = fragment_classes(state.free_cpu[n], state.free_gpu[n], node, state.request[0])
            for c in range(7):
                row[S_FRAG + c] = classes[c]
                now[FRAG + c] += row[S_FRAG + c]
        now[FRAGMENTATION] = now[FRAG] + now[FRAG + 1] + now[FRAG + 3] + now[FRAG + 4] + now[FRAG + 5] + now[FRAG + 6]
    for r in range(3):
        now[STRANDED + r] -= row[S_STRANDED + r]
        row[S_STRANDED + r] = 0.0
    if node.open == 1:
        _strand(state, load.common, n, row)
        for r in range(3):
            now[STRANDED + r] += row[S_STRANDED + r]
    power = 0.0
    empty = 0.0
    if present:
        power = _watts(load.watts, load.curve[n], (node.cpu - state.free_cpu[n]) / node.host_cpu)
        if node.guests == 0:
            empty = power
    now[POWER] += power - row[S_POWER]
    now[POWER_EMPTY] += empty - row[S_POWER_EMPTY]
    row[S_POWER] = power
    row[S_POWER_EMPTY] = empty


@kernel
def count_in(state, load, run, n, c, change, move):
    """Account a guest of class ``c`` that came to (+1) or left (-1) node ``n``; ``move``: it goes on elsewhere."""
    cls = state.classes[c]
    now = run.now
    now[0] += change * cls.cpu
    now[1] += change * cls.mem
    now[2] += change * cls.gpu_count * cls.gpu_milli
    guests = state.nodes[n].guests
    if change > 0 and guests == 1:
        now[ACTIVE] += 1
    elif change < 0 and guests == 0:
        now[ACTIVE] -= 1
    if not move:
        now[6] += change
    measure(state, load, run, n)
    if change > 0 or not move:
        peaks(run)


@kernel
def peaks(run):
    """Raise the peaks to what is now."""
    for q in range(RECORDED):
        if run.now[q] > run.peak[q]:
            run.peak[q] = run.now[q]
