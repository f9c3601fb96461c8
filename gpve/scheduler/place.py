"""One decision: find the node for a request, claim it, release it.

`find` reads, `claim` and `release` write; nothing else writes the free columns.
"""

import numpy as np

from gpve.scheduler.columns import BAD_DEVICE, CLOCK, DECISIONS, ERROR, ERROR_CLASS, ERROR_NODE, FLOOR, NEWEST
from gpve.scheduler.compiled import kernel, outlined
from gpve.scheduler.fit import fits
from gpve.scheduler.groups import allowed, enrol
from gpve.scheduler.index import (
    GROUP,
    UNSCHEDULABLE,
    build,
    catch_up,
    evaluate,
    first_best,
    first_best_allowed,
    fitting,
    kth,
    kth_allowed,
    nearest_reason,
    reason_of,
    touch,
)


@kernel
def draw_of(seed, guest):
    """A hash of (seed, guest): the finalizer of SplitMix64 (Steele et al., OOPSLA 2014) over their sum."""
    z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(guest + 1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def take_up(state, c, draw):
    """Put class ``c`` into the request record."""
    req = state.request[0]
    cls = state.classes[c]
    req.cpu = cls.cpu
    req.mem = cls.mem
    req.gpu_count = cls.gpu_count
    req.gpu_milli = cls.gpu_milli
    req.index = c
    req.draw = draw


@kernel
def _slot_for(state, score, uniform, c):
    """The tree of class ``c``, up to date; -1 if it gets none.

    A class gets a tree when it asks for the second time. When all trees are taken, the one that rested longest goes,
    if its class asks less often than this one: a class that asks once must not cost another its tree.
    """
    cls = state.classes[c]
    slots = state.slots
    slot = cls.slot
    if slot < 0:
        if cls.asked < 2:
            return -1
        oldest = 0
        for s in range(slots.shape[0]):
            if slots[s].request_class < 0:
                oldest = s
                break
            if slots[s].used < slots[oldest].used:
                oldest = s
        evicted = slots[oldest].request_class
        if evicted >= 0:
            if state.classes[evicted].asked > cls.asked:
                slots[oldest].used = state.scalars[DECISIONS]
                return -1
            state.classes[evicted].slot = -1
        slot = oldest
        slots[slot].request_class = c
        cls.slot = slot
        build(state, score, uniform, c, slot)
    else:
        catch_up(state, score, uniform, c, slot)
    slots[slot].used = state.scalars[DECISIONS]
    return slot


@outlined
def _scan(state, score, uniform, c, rule, draw):
    """`find` without a tree: look at every node."""
    best = -1
    value = FLOOR
    nearest = -np.inf
    blocked = False
    total = 0
    for n in range(state.nodes.shape[0]):
        leaf = evaluate(state, score, uniform, c, n)
        if leaf <= FLOOR:
            nearest = max(nearest, leaf)
        elif rule >= 0 and (uniform or leaf > value) and not allowed(state, n, rule):
            blocked = True
        else:
            total += 1
            if leaf > value:
                best = n
                value = leaf
    if best < 0:
        if blocked:
            return -GROUP
        return -reason_of(nearest) if nearest > -np.inf else -UNSCHEDULABLE
    if not uniform:
        return best
    k = draw % total
    for n in range(state.nodes.shape[0]):
        if evaluate(state, score, uniform, c, n) > FLOOR and (rule < 0 or allowed(state, n, rule)):
            if k == 0:
                return n
            k -= 1
    return best


@outlined
def _still_ruled_out(state, c):
    """Whether no node fits class ``c``, known from a scan and from what changed since (a class without a tree)."""
    cls = state.classes[c]
    if cls.ruled_out < 0:
        return False
    req = state.request[0]
    n = state.scalars[NEWEST]
    while n >= 0 and state.nodes[n].changed > cls.ruled_out:
        node = state.nodes[n]
        verdict = state.eligible[cls.constraint, node.type]
        if fits(state.free_cpu[n], state.free_mem[n], state.free_gpu[n], node, req, verdict) == 0:
            return False
        n = node.older
    cls.ruled_out = state.scalars[CLOCK]
    return True


@kernel
def find(state, score, uniform, c, rule, draw, retry):
    """The node for a request of class ``c`` under group rule ``rule`` (-1: none); minus a reason if none fits.

    ``draw`` is a hash for policies that draw. ``retry`` says that this guest already failed before, so that an exact
    reason is not wanted again.
    """
    take_up(state, c, draw)
    cls = state.classes[c]
    cls.asked += 1
    state.scalars[DECISIONS] += 1
    if state.nodes.shape[0] == 0:
        return -UNSCHEDULABLE
    lot = np.int64(draw & np.uint64(0xFFFFFFFF))
    slot = _slot_for(state, score, uniform, c)
    if slot < 0:
        if retry and _still_ruled_out(state, c):
            return -UNSCHEDULABLE
        cls.ruled_out = -1
        n = _scan(state, score, uniform, c, rule, lot)
        if n < 0 and n != -GROUP:
            cls.ruled_out = state.scalars[CLOCK]
        return n
    row = state.tree[slot]
    if uniform:
        total = fitting(row, state.levels)
        if total == 0:
            return -nearest_reason(row, state.nodes.shape[0])
        if rule < 0:
            return kth(row, state.levels, lot % total)
        n = kth_allowed(state, row, rule, lot)
        return n if n >= 0 else -GROUP
    n = first_best(row, state.levels)
    if row[n] <= FLOOR:
        return -reason_of(row[n])
    if rule < 0 or allowed(state, n, rule):
        return n
    n, _ = first_best_allowed(state, row, rule)
    return n if n >= 0 else -GROUP


@kernel
def claim(state, device, keep, keeps, c, rule, n, draw, wanted):
    """Claim node ``n`` for a request of class ``c``; returns its devices as bits.

    ``wanted`` is 0 to choose devices (a share: the policy's choice; else those with the least left that fit, the
    lowest index on a tie), or the bits of devices to take again.
    """
    take_up(state, c, draw)
    req = state.request[0]
    node = state.nodes[n]
    free_gpu = state.free_gpu[n]
    taken = np.int64(0)
    if req.gpu_count > 0:
        if wanted != 0:
            taken = wanted
        elif req.gpu_count == 1 and req.gpu_milli < 1000:
            chosen = device(state.free_cpu[n], state.free_mem[n], free_gpu, node, req)
            if 0 <= chosen < len(free_gpu) and free_gpu[chosen] >= req.gpu_milli:
                taken = np.int64(1) << chosen
            else:
                state.scalars[ERROR] = BAD_DEVICE
                state.scalars[ERROR_NODE] = n
                state.scalars[ERROR_CLASS] = c
        if taken == 0:
            for _ in range(req.gpu_count):
                least = -1
                for d in range(len(free_gpu)):
                    fits_here = (taken >> d) & 1 == 0 and free_gpu[d] >= req.gpu_milli
                    if fits_here and (least < 0 or free_gpu[d] < free_gpu[least]):
                        least = d
                taken |= np.int64(1) << least
        for d in range(len(free_gpu)):
            if (taken >> d) & 1:
                free_gpu[d] -= req.gpu_milli
    state.free_cpu[n] -= req.cpu
    state.free_mem[n] -= req.mem
    node.guests += 1
    _changed(state, keep, keeps, rule, n, 1)
    return taken


@kernel
def release(state, keep, keeps, c, rule, n, devices):
    """Give back what a guest of class ``c`` claimed on node ``n``; ``devices`` are the bits that `claim` returned."""
    take_up(state, c, np.uint64(0))
    req = state.request[0]
    free_gpu = state.free_gpu[n]
    for d in range(len(free_gpu)):
        if (devices >> d) & 1:
            free_gpu[d] += req.gpu_milli
    state.free_cpu[n] += req.cpu
    state.free_mem[n] += req.mem
    state.nodes[n].guests -= 1
    _changed(state, keep, keeps, rule, n, -1)


@kernel
def _changed(state, keep, keeps, rule, n, change):
    if rule >= 0:
        enrol(state, n, rule, change)
    if keeps:
        keep(state.free_cpu[n], state.free_mem[n], state.free_gpu[n], state.nodes[n], state.request[0], change)
    touch(state.nodes, state.scalars, n)


@kernel
def set_open(state, n, is_open):
    """Let the node take guests, or not."""
    state.nodes[n].open = is_open
    touch(state.nodes, state.scalars, n)


@kernel
def begin(state, keep, keeps):
    """Let the policy write its first state on every node."""
    if keeps:
        for n in range(state.nodes.shape[0]):
            keep(state.free_cpu[n], state.free_mem[n], state.free_gpu[n], state.nodes[n], state.request[0], 0)
