"""The score index: for each request class in use, a tree of block maxima over the scores of all nodes.

A decision looks again, once each, at the nodes that changed since its class last asked (nodes stand in a list by the
time of their last change), writes what differs, and walks down to the first node with the highest score. Cost
therefore follows what changed, not the size of the cluster. Classes without a tree (the index is bounded) are
answered by looking at every node: the same answer, only slower.

A policy that draws (`uniform`) keeps counts of nodes that fit in the blocks, in the place of maxima.
"""

import numpy as np

from gpve.model.reasons import Reason
from gpve.scheduler.columns import (
    BAD_SCORE,
    CLOCK,
    ERROR,
    ERROR_CLASS,
    ERROR_NODE,
    FANOUT,
    FLOOR,
    INFEASIBLE,
    NEWEST,
    PAD,
    SCORED,
)
from gpve.scheduler.compiled import inlined, kernel, outlined
from gpve.scheduler.fit import fits
from gpve.scheduler.groups import allowed

POLICY = int(Reason.POLICY)
GROUP = int(Reason.GROUP)
UNSCHEDULABLE = int(Reason.UNSCHEDULABLE)


@kernel
def touch(nodes, scalars, n):
    """Node ``n`` changed: move it to the front of the list and stamp it with a new clock."""
    scalars[CLOCK] += 1
    nodes[n].changed = scalars[CLOCK]
    front = scalars[NEWEST]
    if front == n:
        return
    newer = nodes[n].newer
    older = nodes[n].older
    nodes[newer].older = older
    if older >= 0:
        nodes[older].newer = newer
    nodes[n].newer = -1
    nodes[n].older = front
    nodes[front].newer = n
    scalars[NEWEST] = n


@inlined
def reason_of(leaf):
    """The reason in a leaf that does not fit."""
    return int(INFEASIBLE / leaf + 0.5)


@kernel
def evaluate(state, score, uniform, c, n):
    """The leaf of node ``n`` for class ``c``: its score, or ``INFEASIBLE / reason``."""
    node = state.nodes[n]
    req = state.request[0]
    free_gpu = state.free_gpu[n]
    verdict = state.eligible[state.classes[c].constraint, node.type]
    reason = fits(state.free_cpu[n], state.free_mem[n], free_gpu, node, req, verdict)
    if reason != 0:
        return INFEASIBLE / reason
    if uniform:
        return 1.0
    state.scalars[SCORED] += 1
    value = score(state.free_cpu[n], state.free_mem[n], free_gpu, node, req)
    if value == -np.inf:
        return INFEASIBLE / POLICY
    if not (FLOOR < value < np.inf):
        state.scalars[ERROR] = BAD_SCORE
        state.scalars[ERROR_NODE] = n
        state.scalars[ERROR_CLASS] = c
        return INFEASIBLE / POLICY
    return value


@kernel
def _write(row, levels, uniform, n, leaf):
    """Set a leaf of one tree and mend the blocks above it."""
    old = row[n]
    if old == leaf:
        return
    row[n] = leaf
    last = levels.shape[0] - 2
    at = n
    if uniform:
        change = (1.0 if leaf > FLOOR else 0.0) - (1.0 if old > FLOOR else 0.0)
        if change != 0.0:
            for level in range(last):
                at //= FANOUT
                row[levels[level + 1] + at] += change
        return
    for level in range(last):
        block = at // FANOUT
        cell = levels[level + 1] + block
        top = row[cell]
        if leaf > top:
            row[cell] = leaf
        elif old == top:
            first = levels[level] + block * FANOUT
            leaf = row[first]
            for i in range(first + 1, first + FANOUT):
                leaf = max(leaf, row[i])
            if leaf == top:
                return
            row[cell] = leaf
        else:
            return
        old = top
        at = block


@outlined
def build(state, score, uniform, c, slot):
    """Score every node for class ``c`` and build its tree."""
    levels = state.levels
    row = state.tree[slot]
    count = state.nodes.shape[0]
    for n in range(count):
        row[n] = evaluate(state, score, uniform, c, n)
    for n in range(count, levels[1]):
        row[n] = PAD
    for level in range(1, levels.shape[0] - 1):
        below = levels[level - 1]
        blocks = (levels[level] - below) // FANOUT
        for b in range(levels[level + 1] - levels[level]):
            value = 0.0 if uniform else PAD
            if b < blocks:
                for i in range(below + b * FANOUT, below + (b + 1) * FANOUT):
                    if not uniform:
                        value = max(value, row[i])
                    elif level == 1:
                        value += 1.0 if row[i] > FLOOR else 0.0
                    else:
                        value += row[i]
            row[levels[level] + b] = value
    state.slots[slot].clock = state.scalars[CLOCK]


@kernel
def catch_up(state, score, uniform, c, slot):
    """Look again at every node that changed since this tree was last right."""
    since = state.slots[slot].clock
    n = state.scalars[NEWEST]
    row = state.tree[slot]
    while n >= 0 and state.nodes[n].changed > since:
        _write(row, state.levels, uniform, n, evaluate(state, score, uniform, c, n))
        n = state.nodes[n].older
    state.slots[slot].clock = state.scalars[CLOCK]


@kernel
def first_best(row, levels):
    """The first leaf with the highest value."""
    top = levels.shape[0] - 2
    best = levels[top]
    for i in range(best + 1, levels[top + 1]):
        if row[i] > row[best]:
            best = i
    value = row[best]
    at = best - levels[top]
    for level in range(top - 1, -1, -1):
        at *= FANOUT
        while row[levels[level] + at] != value:
            at += 1
    return at


@kernel
def kth(row, levels, k):
    """The leaf of the k-th node (from 0) that fits, in a tree of counts."""
    at = 0
    for level in range(levels.shape[0] - 2, 0, -1):
        first = levels[level]
        while k >= row[first + at]:
            k -= int(row[first + at])
            at += 1
        at *= FANOUT
    while True:
        if row[at] > FLOOR:
            if k == 0:
                return at
            k -= 1
        at += 1


@kernel
def fitting(row, levels):
    """How many nodes fit, in a tree of counts."""
    total = 0.0
    top = levels.shape[0] - 2
    for i in range(levels[top], levels[top + 1]):
        if top > 0:
            total += row[i]
        elif row[i] > FLOOR:
            total += 1.0
    return int(total)


@outlined
def first_best_allowed(state, row, rule):
    """The first leaf with the highest value among those that the group rule allows; (-1, reason) if none."""
    levels = state.levels
    best = -1
    value = FLOOR
    blocked = False
    for b in range(levels[1] // FANOUT):
        if levels.shape[0] > 2 and row[levels[1] + b] <= value:
            continue
        for n in range(b * FANOUT, (b + 1) * FANOUT):
            if row[n] > value:
                if allowed(state, n, rule):
                    best = n
                    value = row[n]
                else:
                    blocked = True
    return best, blocked


@outlined
def kth_allowed(state, row, rule, draw):
    """A drawn leaf among those that fit and that the group rule allows; -1 if none."""
    total = 0
    for n in range(state.nodes.shape[0]):
        if row[n] > FLOOR and allowed(state, n, rule):
            total += 1
    if total == 0:
        return -1
    k = draw % total
    for n in range(state.nodes.shape[0]):
        if row[n] > FLOOR and allowed(state, n, rule):
            if k == 0:
                return n
            k -= 1
    return -1


@outlined
def nearest_reason(row, count):
    """The nearest miss among leaves none of which fits."""
    best = INFEASIBLE / UNSCHEDULABLE
    for n in range(count):
        best = max(best, row[n])
    return reason_of(best)
