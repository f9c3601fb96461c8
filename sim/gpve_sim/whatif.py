"""Clusters that change over time, and clusters that might be: drains, failures, growth, purchases."""

from collections.abc import Sequence

import numpy as np

from gpve.model.columns import Nodes
from gpve.model.errors import InputError
from gpve_sim.cluster_size import joined_nodes
from gpve_sim.kernel.tables import ADD, DRAIN, FAIL
from gpve_sim.streams import stream
from gpve_sim.workload import NodeEvents


def rolling_drain(nodes: Nodes, start_s: float, each_s: float, at_once: int = 1) -> NodeEvents:
    """Drain all nodes in node order, ``at_once`` at a time; back after ``each_s`` seconds, then come the next."""
    if each_s <= 0 or at_once < 1:
        raise InputError("a rolling drain needs a time per step above 0 and at least one node at once")
    rows: list[tuple[float, int, int]] = []
    for n in range(len(nodes)):
        begin = start_s + each_s * (n // at_once)
        rows += [(begin, DRAIN, n), (begin + each_s, ADD, n)]
    # At the moment of change, those that return come before those that go.
    return NodeEvents.of(sorted(rows, key=lambda row: (row[0], row[1] != ADD)))


def rack_failure(nodes: Nodes, at_s: float, size: int, seed: int, repair_s: float | None = None) -> NodeEvents:
    """A rack (``size`` neighbours in node order, drawn by ``seed``) fails; it returns after ``repair_s`` if given."""
    if not 0 < size <= len(nodes):
        raise InputError(f"a rack of {size} does not fit a cluster of {len(nodes)} nodes")
    racks = -(-len(nodes) // size)
    rack = int(stream(seed, "rack").integers(racks))
    members = range(rack * size, min((rack + 1) * size, len(nodes)))
    rows = [(at_s, FAIL, n) for n in members]
    if repair_s is not None:
        rows += [(at_s + repair_s, ADD, n) for n in members]
    return NodeEvents.of(rows)


def growth(nodes: Nodes, first: int, every_s: float, step: int) -> Nodes:
    """The cluster starting with its ``first`` nodes, ``step`` more joining each ``every_s`` seconds."""
    from dataclasses import replace

    if not 0 < first <= len(nodes) or every_s <= 0 or step < 1:
        raise InputError("growth needs a first number of nodes within the cluster, a time and a step above 0")
    index = np.arange(len(nodes))
    later = np.maximum(-(-(index - first + 1) // step), 0)
    return replace(nodes, add_s=later * every_s)


def with_more(nodes: Nodes, bought: Nodes) -> Nodes:
    """The cluster with ``bought`` nodes after its own: what if we bought 50 A10 nodes?"""
    return joined_nodes([nodes, bought])


def merged(parts: Sequence[NodeEvents]) -> NodeEvents:
    """Several lists of events as one."""
    return NodeEvents.of([row for part in parts for row in part.rows()])
