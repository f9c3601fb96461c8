"""The arrays that a replay's loop reads and writes, and the places in them. G guests, N nodes, E node events."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# What happens to a node.
ADD, DRAIN, FAIL = range(3)

# What happens to a guest beyond its first placement; codes of `Run.log`.
QUEUED, STARTED, EXPIRED, MOVED, BLOCKED, EVICTED, RESTARTED, LOST, FAILED = range(9)
EVENT_NAMES = (
    "queued", "started", "expired", "moved", "blocked", "evicted", "restarted", "lost", "failed",
)  # fmt: skip
LOG_COLUMNS = ("time_s", "guest", "node", "event", "reason")

# What becomes of a guest that does not fit.
DROP, WAIT, BACKFILL = range(3)

# Quantities that are recorded over time: places in `Run.now`, `Run.integral`, `Run.peak`.
CPU, MEM, GPU, ACTIVE, OPEN, WAITING, RUNNING, FRAGMENTATION, POWER, POWER_EMPTY = range(10)
STRANDED = 10  # CPU, memory, GPU
RECORDED = 13  # those before have means and peaks; the classes of fragments stand in the timeline alone
FRAG = 13  # seven classes
QUANTITIES = 20

# Columns of a timeline row: these, then the quantities, then failures by reason.
T_TIME, T_ARRIVED, T_ARRIVED_GPU, T_PLACED, T_FAILED = range(5)
T_QUANTITIES = 5
T_REASONS = T_QUANTITIES + QUANTITIES
REASONS = 13
T_WIDTH = T_REASONS + REASONS

# Contributions of one node: places in a row of `Run.shares`.
S_FRAG, S_STRANDED, S_POWER, S_POWER_EMPTY, S_WIDTH = 0, 7, 10, 11, 12

# Places in `Run.at`: where the loop stands, so that it can stop and go on.
(
    A_ARRIVAL, A_DEPARTURE, A_NODE_EVENT, A_SAMPLE, A_ROWS, A_LOG, A_ENDS, A_DEADLINES, A_ACTIVE_BUCKETS,
    A_PLACED, A_FAILED, A_STOP, A_FREED, A_ROUND, A_REQUEUED, A_MIGRATED, A_LOST, A_AHEAD, A_WIDTH,
) = range(19)  # fmt: skip

# Why the loop returned.
DONE, STOPPED, AT_LIMIT, BAD_POLICY, LOG_FULL = range(5)


class Load(NamedTuple):
    """What arrives and what happens to nodes. Columns that nothing needs have no rows."""

    arrival: NDArray[np.float64]
    """(G,)"""
    departure: NDArray[np.float64]
    """(G,), or (0,) where nothing departs."""
    request_class: NDArray[np.int32]
    """(G,)"""
    rule: NDArray[np.int32]
    """(G,) or (0,)"""
    order: NDArray[np.int32]
    """(G,) guests by arrival, or (0,) where they stand so."""
    departures: NDArray[np.int32]
    """Guests by departure: those that end, and not in the moment they arrive."""
    departure_times: NDArray[np.float64]
    """Their times, in this order: read one after the other, where `departure` would be read all over."""
    deadline: NDArray[np.float64]
    """(G,) or (0,)"""
    bucket: NDArray[np.int32]
    """(G,) queue of equal guests (class, rule, priority), or (0,) if nothing waits."""
    bucket_priority: NDArray[np.int32]
    rank: NDArray[np.int32]
    """(G,) place in the order of arrival; (0,) if nothing waits."""
    event_time: NDArray[np.float64]
    """(E,) sorted."""
    event_kind: NDArray[np.int8]
    event_node: NDArray[np.int32]
    sample_times: NDArray[np.float64]
    """Times of timeline rows; (0,) for a row every `sample_every` arrivals."""
    common: NDArray[np.void]
    """Commonest requests with memory and constraint (`REQUEST_CLASS`), for stranding."""
    watts: NDArray[np.float64]
    """(curves, points) power by CPU load at equal steps."""
    curve: NDArray[np.int32]
    """(N,) power curve of each node."""


class Run(NamedTuple):
    """What the loop writes."""

    node: NDArray[np.int32]
    """(G,) first node of each guest, -1: none."""
    devices: NDArray[np.int64]
    """(G,) its devices as bits; (0,) without GPUs."""
    node_now: NDArray[np.int32]
    """Where it is now: `node` itself where nothing moves."""
    devices_now: NDArray[np.int64]
    start: NDArray[np.float64]
    """(G,) first start; (0,) if nothing waits."""
    end: NDArray[np.float64]
    """(G,) end of the run in hand; (0,) if no guest can end later than its departure."""
    waits: NDArray[np.int8]
    """(G,) 1: in the queue."""
    next_waiting: NDArray[np.int32]
    head: NDArray[np.int32]
    """(B,) first guest of each queue, -1: empty."""
    tail: NDArray[np.int32]
    active: NDArray[np.int32]
    """Queues that are not empty."""
    failed_round: NDArray[np.int64]
    """(B,) last round in which the queue's first guest did not fit."""
    end_keys: NDArray[np.float64]
    """Heap of ends that are not in `Load.departures`."""
    end_guests: NDArray[np.int32]
    deadline_keys: NDArray[np.float64]
    deadline_guests: NDArray[np.int32]
    now: NDArray[np.float64]
    """(QUANTITIES,)"""
    integral: NDArray[np.float64]
    """(RECORDED,) over time."""
    peak: NDArray[np.float64]
    shares: NDArray[np.float64]
    """(N, S_WIDTH) what each node adds to the totals."""
    reasons: NDArray[np.int64]
    """(REASONS,) failures so far."""
    timeline: NDArray[np.float64]
    """(rows, T_WIDTH)"""
    log: NDArray[np.float64]
    """(entries, 5) of `LOG_COLUMNS`."""
    at: NDArray[np.int64]
    """(A_WIDTH,)"""
    clock: NDArray[np.float64]
    """(2,) time of the last event; GPU asked for so far."""
