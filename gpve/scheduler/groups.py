"""How many members of a group a node carries: limits per node and anti-affinity.

Counts live in an open-addressing hash table of (group, role, node), because groups times nodes would not
fit: role 0 counts the group's members on the node, role 1 the guests there that shun the group, so that
anti-affinity holds both ways. Deletion shifts back (Knuth, TAOCP 3, 6.4, algorithm R): no tombstones.
"""

from gpve.scheduler.columns import PAIRS
from gpve.scheduler.compiled import kernel

_MIX = -7046029254386353131  # 2**64 / golden ratio, as a signed integer


@kernel
def _home(key, mask):
    return ((key * _MIX) >> 29) & mask


@kernel
def count(pair_keys, pair_counts, key):
    """The count of ``key``, 0 where it is absent."""
    mask = pair_keys.shape[0] - 1
    at = _home(key, mask)
    while pair_keys[at] >= 0:
        if pair_keys[at] == key:
            return pair_counts[at]
        at = (at + 1) & mask
    return 0


@kernel
def add(pair_keys, pair_counts, scalars, key, change):
    """Add ``change`` (+1 or -1) to the count of ``key``; a count of 0 leaves the table."""
    mask = pair_keys.shape[0] - 1
    at = _home(key, mask)
    while pair_keys[at] >= 0 and pair_keys[at] != key:
        at = (at + 1) & mask
    if pair_keys[at] < 0:
        pair_keys[at] = key
        pair_counts[at] = change
        scalars[PAIRS] += 1
        return
    pair_counts[at] += change
    if pair_counts[at] != 0:
        return
    scalars[PAIRS] -= 1
    hole = at
    while True:
        at = (at + 1) & mask
        if pair_keys[at] < 0:
            break
        home = _home(pair_keys[at], mask)
        # Movable unless its home lies (cyclically) after the hole and up to where it stands.
        if ((at - home) & mask) >= ((at - hole) & mask):
            pair_keys[hole] = pair_keys[at]
            pair_counts[hole] = pair_counts[at]
            hole = at
    pair_keys[hole] = -1


@kernel
def allowed(state, node, rule):
    """Whether the rules of groups let a guest with this rule onto the node."""
    n = state.nodes.shape[0]
    r = state.rules[rule]
    if r.group >= 0:
        members = count(state.pair_keys, state.pair_counts, (r.group * 2) * n + node)
        if r.max_per_node > 0 and members >= r.max_per_node:
            return False
        if count(state.pair_keys, state.pair_counts, (r.group * 2 + 1) * n + node) > 0:
            return False
    for a in range(r.avoid_from, r.avoid_to):
        if count(state.pair_keys, state.pair_counts, (state.avoid[a] * 2) * n + node) > 0:
            return False
    return True


@kernel
def enrol(state, node, rule, change):
    """Count a guest with this rule in (+1) or out (-1) of the node."""
    n = state.nodes.shape[0]
    r = state.rules[rule]
    if r.group >= 0:
        add(state.pair_keys, state.pair_counts, state.scalars, (r.group * 2) * n + node, change)
    for a in range(r.avoid_from, r.avoid_to):
        add(state.pair_keys, state.pair_counts, state.scalars, (state.avoid[a] * 2 + 1) * n + node, change)
