"""From a trace and a cluster to the arrays of the compiled loop."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpve.model.columns import DEFAULT_POWER, FOREVER, Guests, Nodes
from gpve.scheduler.columns import State
from gpve.scheduler.requests import Requests
from gpve_sim.kernel.tables import (
    A_WIDTH,
    ADD,
    DRAIN,
    DROP,
    LOG_COLUMNS,
    QUANTITIES,
    REASONS,
    RECORDED,
    S_WIDTH,
    T_WIDTH,
    Load,
    Run,
)

COMMON = 64
"""Commonest requests that stranding is measured by, at most."""
COMMON_SHARE = 0.95
"""Share of the guests that they make up, at least, if so few suffice."""
_NOTHING_F = np.zeros(0, dtype=np.float64)
_NOTHING_I = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class NodeEvents:
    """What happens to nodes over time: E events, sorted by time, then as given."""

    time_s: NDArray[np.float64]
    kind: NDArray[np.int8]
    """(E,) `ADD`, `DRAIN` or `FAIL` of `gpve_sim.kernel.tables`."""
    node: NDArray[np.int32]

    @staticmethod
    def none() -> "NodeEvents":
        """No events."""
        return NodeEvents(_NOTHING_F, np.zeros(0, dtype=np.int8), _NOTHING_I)

    @staticmethod
    def of(rows: list[tuple[float, int, int]]) -> "NodeEvents":
        """From rows of (time, kind, node)."""
        rows = sorted(rows, key=lambda row: row[0])
        return NodeEvents(
            np.array([row[0] for row in rows], dtype=np.float64),
            np.array([row[1] for row in rows], dtype=np.int8),
            np.array([row[2] for row in rows], dtype=np.int32),
        )

    def rows(self) -> list[tuple[float, int, int]]:
        """As rows of (time, kind, node)."""
        return list(zip(self.time_s.tolist(), self.kind.tolist(), self.node.tolist(), strict=True))


def node_events(nodes: Nodes) -> NodeEvents:
    """The events that the columns ``add_s`` and ``drain_s`` of a cluster stand for."""
    rows: list[tuple[float, int, int]] = []
    if nodes.add_s is not None:
        rows += [(float(nodes.add_s[n]), ADD, int(n)) for n in np.flatnonzero(nodes.add_s > 0)]
    if nodes.drain_s is not None:
        rows += [(float(nodes.drain_s[n]), DRAIN, int(n)) for n in np.flatnonzero(nodes.drain_s < FOREVER)]
    return NodeEvents.of(rows)


def common_classes(requests: Requests) -> NDArray[np.void]:
    """The commonest request classes, commonest first, ties by first appearance: at most `COMMON`."""
    counts = np.bincount(requests.of_guest, minlength=len(requests.classes))
    order = np.argsort(-counts, kind="stable")
    enough = int(np.searchsorted(np.cumsum(counts[order]), COMMON_SHARE * counts.sum())) + 1
    return requests.classes[order[: min(enough, COMMON)]]


def _power(nodes: Nodes) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """(curves, points) watts, all resampled to as many points as the longest curve needs, and each node's curve."""
    curves = [*nodes.power_curves, DEFAULT_POWER]
    steps = int(np.lcm.reduce([len(c.watts) - 1 for c in curves]))
    grid = np.linspace(0, 1, steps + 1)
    watts = np.stack([np.interp(grid, np.linspace(0, 1, len(c.watts)), c.watts) for c in curves])
    default = len(curves) - 1
    if nodes.power is None:
        return watts, np.full(len(nodes), default, dtype=np.int32)
    return watts, np.where(nodes.power >= 0, nodes.power, default).astype(np.int32)


def sorted_or_order(times: NDArray[np.float64]) -> NDArray[np.int32]:
    """The stable order of arrival, or nothing if the guests stand in it."""
    if len(times) < 2 or bool(np.all(times[1:] >= times[:-1])):
        return _NOTHING_I
    return np.argsort(times, kind="stable").astype(np.int32)


def departures_of(guests: Guests) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Guests by departure (ties by row), of those that end, and not in the moment they arrive; and their times."""
    ends = (guests.departure_s < FOREVER) & (guests.departure_s > guests.arrival_s)
    rows = None if bool(ends.all()) else np.flatnonzero(ends).astype(np.int32)
    times = guests.departure_s if rows is None else guests.departure_s[rows]
    order = np.argsort(times)  # several times faster than a stable sort, and the same where no two are equal
    in_order = times[order]
    if np.any(in_order[1:] == in_order[:-1]):
        order = np.argsort(times, kind="stable")
    return (order.astype(np.int32) if rows is None else rows[order]), in_order


def load_of(
    guests: Guests,
    nodes: Nodes,
    requests: Requests,
    events: NodeEvents,
    *,
    departs: bool,
    mode: int,
    sample_times: NDArray[np.float64],
) -> Load:
    """The arrays that the loop reads."""
    count = len(guests)
    order = sorted_or_order(guests.arrival_s)
    bucket, bucket_priority, rank = _NOTHING_I, _NOTHING_I, _NOTHING_I
    if mode != DROP:
        bucket, bucket_priority = queues_of(guests, requests)
        rank = np.arange(count, dtype=np.int32)
        if len(order):
            rank[order] = np.arange(count, dtype=np.int32)
    watts, curve = _power(nodes)
    departures, departure_times = departures_of(guests) if departs else (_NOTHING_I, _NOTHING_F)
    return Load(
        arrival=guests.arrival_s,
        departure=guests.departure_s if departs else _NOTHING_F,
        request_class=requests.of_guest,
        rule=requests.rule_of_guest,
        order=order,
        departures=departures,
        departure_times=departure_times,
        deadline=guests.deadline_s if guests.deadline_s is not None and mode != DROP else _NOTHING_F,
        bucket=bucket,
        bucket_priority=bucket_priority,
        rank=rank,
        event_time=events.time_s,
        event_kind=events.kind,
        event_node=events.node,
        sample_times=sample_times,
        common=common_classes(requests),
        watts=watts,
        curve=curve,
    )


def queues_of(guests: Guests, requests: Requests) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Queue of each guest, and priority of each queue: guests of one queue differ in nothing but their arrival."""
    code = requests.of_guest.astype(np.int64)
    if len(requests.rule_of_guest):
        code = code * (len(requests.rules) + 1) + requests.rule_of_guest + 1
    priority = np.zeros(len(guests), dtype=np.int32) if guests.priority is None else guests.priority
    encoded = pc.dictionary_encode(pa.array(code)).indices.to_numpy(zero_copy_only=False).astype(np.int64)
    levels = pc.dictionary_encode(pa.array(priority))
    encoded = encoded * len(levels.dictionary) + levels.indices.to_numpy(zero_copy_only=False)
    last = pc.dictionary_encode(pa.array(encoded)).indices.to_numpy(zero_copy_only=False).astype(np.int32)
    of_bucket = np.zeros(int(last.max()) + 1, dtype=np.int32)
    of_bucket[last] = priority
    return last, of_bucket


def run_of(load: Load, state: State, *, mode: int, rows: int) -> Run:
    """The arrays that the loop writes, empty."""
    count = len(load.arrival)
    moves = len(load.event_time) > 0
    waits = count if mode != DROP else 0
    timed = count if mode != DROP or moves else 0
    gpus = count if state.free_gpu.shape[1] else 0
    node = np.full(count, -1, dtype=np.int32)
    devices = np.zeros(gpus, dtype=np.int64)
    ends = timed if len(load.departure) else 0
    buckets = len(load.bucket_priority)
    deadlines = count if len(load.deadline) else 0
    return Run(
        node=node,
        devices=devices,
        node_now=node.copy() if moves else node,
        devices_now=devices.copy() if moves else devices,
        start=np.full(timed, np.nan),
        end=np.full(ends, -np.inf),
        waits=np.zeros(waits if waits else timed, dtype=np.int8),
        next_waiting=np.full(waits, -1, dtype=np.int32),
        head=np.full(buckets, -1, dtype=np.int32),
        tail=np.full(buckets, -1, dtype=np.int32),
        active=np.zeros(buckets, dtype=np.int32),
        failed_round=np.zeros(buckets, dtype=np.int64),
        # Twice: ends of runs that a failed node cut short stay until the heap is full.
        end_keys=np.empty(2 * ends),
        end_guests=np.empty(2 * ends, dtype=np.int32),
        deadline_keys=np.empty(deadlines),
        deadline_guests=np.empty(deadlines, dtype=np.int32),
        now=np.zeros(QUANTITIES),
        integral=np.zeros(RECORDED),
        peak=np.zeros(RECORDED),
        shares=np.zeros((len(state.nodes), S_WIDTH)),
        reasons=np.zeros(REASONS, dtype=np.int64),
        timeline=np.zeros((rows, T_WIDTH)),
        log=np.zeros((4096, len(LOG_COLUMNS))),
        at=np.zeros(A_WIDTH, dtype=np.int64),
        clock=np.zeros(2),
    )
