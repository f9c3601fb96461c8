"""Bins of the model (many equal nodes as one where that is exact, else one node), and what they are filled
with.

A `Fill` speaks of counts; `fills_of` makes it from an assignment (the heuristic's answer, for the hint) and
`assignment_of` makes an assignment from it (the solver's answer).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gpve.scheduler.optimize.exact import Row, class_form, device_rows
from gpve.scheduler.optimize.problem import WHOLE, Assignment, Batch, Ints, NodeClass, device_order


@dataclass(frozen=True)
class Bin:
    """One or more equal nodes that share their variables."""

    node_class: NodeClass
    nodes: tuple[int, ...]
    rows: list[Row] | None
    """Rows per node that say all there is to say; None: one node, with rows of its own for each resource."""
    device_rows: list[Row] | None
    """Rows on counts that say all about the devices; None: variables for each device."""
    descending: list[int]
    """Request classes in the order in which first-fit realises the counts."""
    rank: int | None = None
    """Of equal nodes that stand by themselves, the rank-th; None: all nodes of the class."""


@dataclass
class Fill:
    """What goes into a bin. Devices are positions in ``node_class.gpu``; only bins without rows for them name
    any.
    """

    counts: dict[int, int] = field(default_factory=dict)
    opened: int = 0
    shares: dict[tuple[int, int], int] = field(default_factory=dict)
    """(device, request class) -> requests of less than a whole device there."""
    whole: set[int] = field(default_factory=set)
    """Devices given away whole."""


def make_bins(batch: Batch, classes: list[NodeClass], *, spare_devices: bool, by_class: bool = True) -> list[Bin]:
    """Bins of all node classes; ``spare_devices`` needs devices by name, ``by_class=False`` every node by
    itself.

    Of equal nodes by themselves no more than the requests that fit on them are kept: the others stay unused.
    """
    bins = []
    for k in classes:
        fit = sorted(k.fit)
        shares = any(batch.gpu_milli[c] < WHOLE for c in fit if batch.gpu_count[c] > 0)
        named = spare_devices and shares and WHOLE in k.gpu
        form = class_form(batch, k) if by_class and not named else None
        if form is not None:
            bins.append(Bin(k, k.nodes, form.rows, [], form.descending))
            continue
        descending = sorted(fit, key=lambda c: (-int(batch.gpu_total[c]), c))
        rows = None if named else device_rows(batch, k.gpu, fit)
        most = min(len(k.nodes), sum(int(batch.count[c]) for c in fit))
        bins += [Bin(k, (node,), None, rows, descending, rank) for rank, node in enumerate(k.nodes[:most])]
    return bins


def needed(bins: list[Bin], opened: int | None) -> list[Bin]:
    """Without empty nodes that an answer never needs if it opens at most ``opened`` of them in all (None: any
    number).
    """
    if opened is None:
        return bins
    return [b for b in bins if not b.node_class.empty or b.rank is None or b.rank < opened]


def fills_of(batch: Batch, bins: list[Bin], assignment: Assignment) -> list[Fill]:
    """The assignment as fills; equal nodes stand in for each other, equal devices are put in order of load."""
    on_node: dict[int, list[int]] = defaultdict(list)
    for r in np.flatnonzero(assignment.node >= 0).tolist():
        on_node[int(assignment.node[r])].append(r)
    order = device_order(batch)
    fills = []
    ranked: list[int] = []
    for b in bins:
        if b.rank is None:
            nodes = [n for n in b.nodes if n in on_node]
        else:
            if b.rank == 0:
                ranked = [n for n in b.node_class.nodes if n in on_node]
            nodes = ranked[b.rank : b.rank + 1]
        fill = Fill(opened=len(nodes))
        for n in nodes:
            for r in on_node[n]:
                c = int(batch.request_class[r])
                fill.counts[c] = fill.counts.get(c, 0) + 1
        if b.device_rows is None and nodes:
            _fill_devices(batch, b, fill, [(r, assignment.devices[r]) for r in on_node[nodes[0]]], order[nodes[0]])
        fills.append(fill)
    return fills


def _fill_devices(batch: Batch, b: Bin, fill: Fill, requests: list[tuple[int, tuple[int, ...]]], order: Ints) -> None:
    position = {int(d): p for p, d in enumerate(order[: len(b.node_class.gpu)])}
    used = [0] * len(b.node_class.gpu)
    shares: dict[int, dict[int, int]] = defaultdict(dict)
    for r, devices in requests:
        c = int(batch.request_class[r])
        for d in devices:
            used[position[d]] += int(batch.gpu_milli[c])
            if batch.gpu_milli[c] < WHOLE:
                shares[position[d]][c] = shares[position[d]].get(c, 0) + 1
    # Devices with equal room change places: the most used comes first (a device given away whole is full).
    by_load = sorted(range(len(used)), key=lambda p: (-b.node_class.gpu[p], -used[p]))
    for to, p in enumerate(by_load):
        for c, count in shares[p].items():
            fill.shares[to, c] = count
        if used[p] and not shares[p]:
            fill.whole.add(to)


def assignment_of(batch: Batch, bins: list[Bin], fills: list[Fill]) -> Assignment:
    """Concrete nodes and devices; the places of a class, by node and device, go to its requests by
    arrival.
    """
    places: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    order = device_order(batch)
    for b, fill in zip(bins, fills, strict=True):
        if not any(fill.counts.values()):
            continue
        if b.device_rows is None:
            node = b.nodes[0]
            for c, positions in _named_devices(batch, b, fill):
                places[c].append((node, tuple(sorted(int(order[node, p]) for p in positions))))
            continue
        nodes = b.nodes[: fill.opened] if b.node_class.empty else b.nodes
        for node, c, positions in _first_fit(batch, b, nodes, fill.counts):
            places[c].append((node, tuple(sorted(int(order[node, p]) for p in positions))))
    node_of = np.full(len(batch.request_class), -1, np.int64)
    devices: list[tuple[int, ...]] = [()] * len(batch.request_class)
    for c, found in places.items():
        for r, (node, chosen) in zip(np.flatnonzero(batch.request_class == c).tolist(), sorted(found), strict=False):
            node_of[r] = node
            devices[r] = chosen
    return Assignment(node_of, tuple(devices))


def _named_devices(batch: Batch, b: Bin, fill: Fill) -> Iterator[tuple[int, list[int]]]:
    """(request class, device positions) of every request in a bin with variables for devices."""
    whole = sorted(fill.whole)
    for c in sorted(fill.counts):
        x, k = fill.counts[c], int(batch.gpu_count[c])
        if k > 0 and batch.gpu_milli[c] == WHOLE:
            for _ in range(x):
                yield c, whole[:k]
                whole = whole[k:]
            continue
        # Dealt in turn (McNaughton): a device stands at most x times in a row, so steps of x meet it once
        # each.
        row = [p for p in range(len(b.node_class.gpu)) for _ in range(fill.shares.get((p, c), 0))]
        for i in range(x):
            yield c, row[i::x] if k else []


def _first_fit(
    batch: Batch, b: Bin, nodes: tuple[int, ...], counts: dict[int, int]
) -> Iterator[tuple[int, int, list[int]]]:
    """(node, request class, device positions): first-fit by descending size, which `exact` proves to
    succeed.
    """
    cpu, mem = [b.node_class.cpu] * len(nodes), [b.node_class.mem] * len(nodes)
    gpu = [list(b.node_class.gpu) for _ in nodes]
    for c in b.descending:
        left = counts.get(c, 0)
        a, m, k, milli = (int(v[c]) for v in (batch.cpu, batch.mem, batch.gpu_count, batch.gpu_milli))
        for i, node in enumerate(nodes):
            for _ in range(min(left, b.node_class.fit.get(c, 0))):  # which also knows the limit of a group
                if a > cpu[i] or m > mem[i]:
                    break
                chosen = [p for p, free in enumerate(gpu[i]) if k and free >= milli]
                # Several: those with most left, else one device could remain with two slots. One: least left.
                chosen.sort(key=lambda p: -gpu[i][p] if k > 1 else gpu[i][p])
                chosen = chosen[:k]
                if len(chosen) < k:
                    break
                for p in chosen:
                    gpu[i][p] -= milli
                cpu[i] -= a
                mem[i] -= m
                left -= 1
                yield node, c, chosen
            if left == 0:
                break
