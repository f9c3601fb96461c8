"""A batch of pending requests and the room that nodes have: plain values, and the merging of equal nodes.

Units as in `gpve.model`: CPU in thousandths of a core, memory in MiB, GPU in thousandths of one device.
Letters of shapes: N nodes, D devices of the largest node, T node types, C request classes, R requests, K node
classes.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

WHOLE = 1000
"""Thousandths of one whole device."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Groups:
    """Limits of members of a group on one node, with the rule of `Guests.max_per_node`.

    A guest with limit L may start on a node that has fewer than L members of its group. So guests of one
    group that start together do so in ascending order of their limits, those without one last: if any order
    is allowed, this one is (exchange two neighbours that stand the other way round: the smaller limit comes
    earlier, where there are fewer members; the larger limit comes later, where the smaller limit allowed as
    many).
    """

    group: Ints
    """(C,) group of each request class, -1 for none."""
    max_per_node: Ints
    """(C,) 0 is no limit."""
    members: Ints
    """(groups, N) members that run already."""


@dataclass(frozen=True)
class Batch:
    """R requests of C classes for N nodes. Requests of one class are interchangeable; earlier ones are served
    first.
    """

    free_cpu: Ints
    """(N,)"""
    free_mem: Ints
    """(N,)"""
    free_gpu: NDArray[np.int32]
    """(N, D) thousandths left of each device, at most `WHOLE`; -1: the node has no such device."""
    node_type: Ints
    """(N,) column of ``eligible``."""
    empty: Bools
    """(N,) the node runs nothing yet: to use it is to open it."""
    cpu: Ints
    """(C,)"""
    mem: Ints
    """(C,)"""
    gpu_count: Ints
    """(C,) devices, all different."""
    gpu_milli: Ints
    """(C,) thousandths of each device."""
    eligible: Bools
    """(C, T) whether model, labels and taints admit the class."""
    weight: Ints
    """(C,) at least 0: what one unit of the objective is worth in this class (priorities)."""
    request_class: Ints
    """(R,) class of each request, in order of arrival."""
    groups: Groups | None = None

    @cached_property
    def count(self) -> Ints:
        """(C,) requests of each class."""
        return np.bincount(self.request_class, minlength=len(self.cpu)).astype(np.int64)

    @cached_property
    def gpu_total(self) -> Ints:
        """(C,) thousandths over all devices that one request takes."""
        return self.gpu_count * self.gpu_milli

    @cached_property
    def limit(self) -> Ints:
        """(C,) members of the group on one node, 0 where there is no limit."""
        if self.groups is None:
            return np.zeros(len(self.cpu), np.int64)
        return np.where(self.groups.group >= 0, self.groups.max_per_node, 0)


@dataclass(frozen=True)
class Assignment:
    """Where each request goes."""

    node: Ints
    """(R,) -1: not placed."""
    devices: tuple[tuple[int, ...], ...]
    """(R,) the devices of each request, empty where it has none or is not placed."""


@dataclass(frozen=True)
class NodeClass:
    """Nodes that no request can tell apart: same room, type, emptiness and members of the limited groups."""

    nodes: tuple[int, ...]
    """In node order."""
    cpu: int
    mem: int
    gpu: tuple[int, ...]
    """Thousandths left, largest first; absent devices are left out."""
    empty: bool
    fit: dict[int, int]
    """For each request class that fits: how many of it alone one node takes (at least 1, at most its
    count).
    """
    members: dict[int, int]
    """Members of each limited group on every one of these nodes."""


def most_of_one(gpu: tuple[int, ...], count: int, milli: int, most: int) -> int:
    """How many requests of ``count`` different devices with ``milli`` each these devices take, at most
    ``most``.

    x requests fit if and only if the sum over devices of min(left // milli, x) is at least ``count`` x: no
    device may serve one request twice, and slots under that rule can be dealt out in turn (McNaughton's
    wrap-around, 1959).
    """
    slots = [left // milli for left in gpu]
    most = min(most, sum(slots) // count)
    while most > 0 and sum(min(s, most) for s in slots) < count * most:
        most -= 1
    return most


def device_order(batch: Batch) -> Ints:
    """(N, D) devices of each node by what they have left, largest first, lower index first among equals."""
    return np.argsort(-batch.free_gpu, axis=1, kind="stable")


def node_classes(batch: Batch, *, apart: bool = False) -> list[NodeClass]:
    """The classes of equal nodes in which at least one request fits, ordered by their first node.

    ``apart``: every node is a class of its own.
    """
    ordered = np.take_along_axis(batch.free_gpu, device_order(batch), axis=1)
    columns = [batch.free_cpu, batch.free_mem, batch.node_type, batch.empty.astype(np.int64), *ordered.T]
    limited: list[int] = []
    if batch.groups is not None:
        limited = sorted({int(g) for g in batch.groups.group[batch.limit > 0]})
        columns += [batch.groups.members[g] for g in limited]
    if apart:
        columns.append(np.arange(len(batch.free_cpu)))
    rows = np.stack([np.asarray(c, np.int64) for c in columns], axis=1)
    by_row = np.lexsort(rows.T[::-1])
    breaks = np.flatnonzero(np.any(rows[by_row][1:] != rows[by_row][:-1], axis=1)) + 1
    members = np.split(by_row, breaks) if len(by_row) else []
    firsts = np.array([nodes[0] for nodes in members], np.int64)
    fits = _fits(batch, firsts, ordered[firsts])
    classes = []
    for nodes, first, fit_row in zip(members, firsts.tolist(), fits, strict=True):
        taken = np.flatnonzero(fit_row)
        if len(taken) == 0:
            continue
        limits = {g: int(batch.groups.members[g, first]) for g in limited} if batch.groups is not None else {}
        classes.append(
            NodeClass(
                nodes=tuple(np.sort(nodes).tolist()),
                cpu=int(batch.free_cpu[first]),
                mem=int(batch.free_mem[first]),
                gpu=tuple(g for g in ordered[first].tolist() if g >= 0),
                empty=bool(batch.empty[first]),
                fit=dict(zip(taken.tolist(), fit_row[taken].tolist(), strict=True)),
                members=limits,
            )
        )
    return sorted(classes, key=lambda c: c.nodes[0])


def _fits(batch: Batch, nodes: Ints, gpu: NDArray[np.int32]) -> Ints:
    """(nodes, C) how many of each class alone each of these nodes takes, at most the count of the class.

    ``gpu`` (nodes, D): what their devices have left, largest first.
    """
    cpu, mem = batch.free_cpu[nodes][:, None], batch.free_mem[nodes][:, None]
    open_to = batch.eligible[:, batch.node_type[nodes]].T & (batch.cpu <= cpu) & (batch.mem <= mem)
    most = np.where(open_to, batch.count, 0)
    for sizes, room in ((batch.cpu, cpu), (batch.mem, mem)):
        most = np.where(sizes > 0, np.minimum(most, room // np.maximum(1, sizes)), most)
    for c in np.flatnonzero((batch.gpu_count > 0) & (batch.count > 0)).tolist():
        count, milli = int(batch.gpu_count[c]), int(batch.gpu_milli[c])
        slots = np.maximum(gpu, 0) // milli
        most[:, c] = np.minimum(most[:, c], slots.sum(axis=1) // count)
        if count > 1:
            for i in np.flatnonzero(most[:, c]).tolist():
                left = tuple(g for g in gpu[i].tolist() if g >= 0)
                most[i, c] = most_of_one(left, count, milli, int(most[i, c]))
    if batch.groups is not None:
        for c in np.flatnonzero(batch.limit > 0).tolist():
            room = batch.limit[c] - batch.groups.members[batch.groups.group[c], nodes]
            most[:, c] = np.minimum(most[:, c], room)
    return np.maximum(most, 0)
