"""The state of a cluster in columns, as the compiled core sees it.

One array per resource, one record per node and per request class. All of it is plain numpy, so that a
snapshot is a copy and a test can look at everything.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

STATE_SLOTS = 16
"""Numbers that a policy may keep on each node."""
MAX_TYPICAL = 256
"""Most typical requests in the table that policies see; the cost of FGD grows with their number."""
MAX_DEVICES = 62
"""Most GPUs on one node: a guest's devices are the bits of one 64-bit integer."""
FANOUT = 16
"""Children of a block of the score index: two cache lines of scores."""

NODE = np.dtype(
    [
        ("cpu", np.int64),  # what claims may sum to, milli-CPU: physical times overcommit
        ("mem", np.int64),  # the same, MiB
        ("host_cpu", np.int64),  # physical: no single guest may ask for more
        ("host_mem", np.int64),
        ("gpu_count", np.int32),
        ("gpu_model", np.int32),  # -1: no GPU
        ("type", np.int32),  # column of `eligible`: same model, labels and taints
        ("open", np.int32),  # 1: takes guests
        ("guests", np.int32),
        ("index", np.int32),
        ("newer", np.int32),  # list of nodes by time of their last change
        ("older", np.int32),
        ("changed", np.int64),  # the clock of that change
        ("state", np.float64, (STATE_SLOTS,)),  # the policy's own
    ],
    align=True,
)
"""One record per node."""

REQUEST_CLASS = np.dtype(
    [
        ("cpu", np.int64),
        ("mem", np.int64),
        ("asked", np.int64),  # how often a node was sought for it
        ("ruled_out", np.int64),  # clock up to which no node is known to fit; -1: not known
        ("gpu_count", np.int32),
        ("gpu_milli", np.int32),
        ("constraint", np.int32),  # row of `eligible`
        ("slot", np.int32),  # its tree in the index; -1: none
    ],
    align=True,
)
"""One record per request class: guests that ask for the same on the same terms."""

REQUEST = np.dtype(
    [
        ("cpu", np.int64),
        ("mem", np.int64),
        ("gpu_count", np.int32),
        ("gpu_milli", np.int32),
        ("index", np.int32),  # the request class
        ("draw", np.uint64),  # a hash of (seed, guest), for policies that draw
        ("typical_count", np.int32),
        ("typical_share", np.float64, (MAX_TYPICAL,)),
        ("typical_cpu", np.int64, (MAX_TYPICAL,)),
        ("typical_gpu_count", np.int32, (MAX_TYPICAL,)),
        ("typical_gpu_milli", np.int32, (MAX_TYPICAL,)),
        ("typical_models", np.int64, (MAX_TYPICAL,)),  # bit m: admits GPU model m
    ],
    align=True,
)
"""What a policy sees of a request, with the trace's typical requests beside it."""

SLOT = np.dtype([("request_class", np.int32), ("clock", np.int64), ("used", np.int64)], align=True)
"""One record per tree of the score index: whose it is, up to when it is right, when it was last asked."""

RULE = np.dtype([("group", np.int32), ("max_per_node", np.int32), ("avoid_from", np.int32), ("avoid_to", np.int32)])
"""Constraint of a guest by groups: a row per distinct one; ``avoid`` rows list the groups it shuns."""

# Places in `State.scalars`.
CLOCK, NEWEST, PAIRS, ERROR, ERROR_NODE, ERROR_CLASS, DECISIONS, SCORED = range(8)
SCALARS = 8

BAD_SCORE, BAD_DEVICE = 1, 2
"""`scalars[ERROR]` after a policy returned NaN, an infinity, or something below `FLOOR`; after it chose a device that
is none, or on which too little is left."""

INFEASIBLE = -1e300
"""A leaf of the index that does not fit holds ``INFEASIBLE / reason``: nearer misses are larger."""
FLOOR = -1e290
"""Scores must be above this, so that no score is mistaken for a reason."""
PAD = 2 * INFEASIBLE


class State(NamedTuple):
    """Everything that a decision reads and writes. N nodes, D devices, C classes, S slots, L tree cells."""

    free_cpu: NDArray[np.int64]
    """(N,) milli-CPU not claimed."""
    free_mem: NDArray[np.int64]
    """(N,) MiB not claimed."""
    free_gpu: NDArray[np.int32]
    """(N, D) thousandths left on each device; -1 where the node has no such device."""
    nodes: NDArray[np.void]
    """(N,) of `NODE`."""
    classes: NDArray[np.void]
    """(C,) of `REQUEST_CLASS`."""
    eligible: NDArray[np.int8]
    """(constraints, node types): 0, or the `Reason` that forbids the type."""
    request: NDArray[np.void]
    """(1,) of `REQUEST`: the request in hand."""
    tree: NDArray[np.float64]
    """(S, L) score index: leaves first, then each level of block maxima."""
    levels: NDArray[np.int64]
    """Offsets of the levels in a row of `tree`, and L at the end."""
    slots: NDArray[np.void]
    """(S,) of `SLOT`."""
    rules: NDArray[np.void]
    """(R,) of `RULE`."""
    avoid: NDArray[np.int32]
    """Groups shunned, by ranges of `RULE`."""
    pair_keys: NDArray[np.int64]
    """Hash table of (group, role, node) -> count: keys, -1 where empty. A power of two long."""
    pair_counts: NDArray[np.int32]
    scalars: NDArray[np.int64]


def tree_levels(nodes: int) -> NDArray[np.int64]:
    """Offsets of each level of the index over ``nodes`` leaves: the last level has at most `FANOUT` cells."""
    offsets = [0]
    width = -(-max(nodes, 1) // FANOUT) * FANOUT
    while True:
        offsets.append(offsets[-1] + width)
        if width <= FANOUT:
            return np.array(offsets, dtype=np.int64)
        blocks = width // FANOUT
        width = -(-blocks // FANOUT) * FANOUT
