"""How far from the best possible: what no policy could place, and the fewest nodes that could be active."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gpve.scheduler.optimize.check import Objective, unit_values
from gpve.scheduler.optimize.exact import class_form
from gpve.scheduler.optimize.linear import least_opened, relaxed
from gpve.scheduler.optimize.pack import fill, pack
from gpve.scheduler.optimize.place import place_batch
from gpve.scheduler.optimize.problem import Assignment, Batch, node_classes
from gpve.scheduler.optimize.relax import Floats, coarse

MOST_CLASSES = 400
"""Request classes in a linear program; more are merged."""


def most_placed(batch: Batch, objective: Objective) -> int:
    """An upper bound on the first level of the objective (`check.unit_values`), for any policy without
    departures.

    Without departures the guests placed at the end lie on the nodes together, whatever the order of arrival
    and of decisions was, so `linear.relaxed` bounds their worth. ``batch`` holds the nodes before the first
    arrival and all requests that ever arrive. Above `MOST_CLASSES` classes are merged: worth the most of
    their members, sized the least.
    """
    _, unit = unit_values(batch, objective)[0]
    easier, merged = coarse(batch, MOST_CLASSES)
    worth = np.zeros(len(easier.cpu), np.int64)
    np.maximum.at(worth, merged, np.array(unit, np.int64))
    everything = int(np.array(unit, np.int64) @ batch.count)
    return min(everything, relaxed(easier, node_classes(easier), worth.tolist()).bound)


@dataclass(frozen=True)
class ActiveNodes:
    """The fewest nodes that can carry a set of guests, if they may all move at once for free."""

    lower: int
    upper: int
    """A packing with this many exists."""
    status: Literal["optimal", "bounded"]


def fewest_active(batch: Batch, active_now: int | None = None) -> ActiveNodes:
    """Bounds on the fewest nodes that carry all requests of ``batch``, whose nodes are all empty.

    Lower: `linear.least_opened`. Upper: first-fit decreasing over several orders of nodes, and
    ``active_now``, the nodes that carry the guests as it is. Where counts per class are exact on every node
    class (`exact`), CP-SAT closes what remains.
    """
    easier, _ = coarse(batch, MOST_CLASSES)
    classes = node_classes(easier)
    opened = least_opened(easier, classes, easier.count)
    lower = opened.bound

    preference = np.zeros(len(batch.free_cpu))
    for k, share in zip(classes, opened.share, strict=True):
        preference[list(k.nodes)] = share
    upper = len(batch.free_cpu) if active_now is None else active_now
    best: Assignment | None = None
    heuristics = [(pack, order) for order in _node_orders(batch, preference)]
    if len(batch.cpu) <= MOST_CLASSES:
        heuristics.append((fill, heuristics[0][1]))
    for heuristic, order in heuristics:
        if upper <= lower:
            break
        packed = heuristic(batch, order)
        used = len(np.unique(packed.node[packed.node >= 0]))
        if (packed.node >= 0).all() and (best is None or used < upper):
            best, upper = packed, min(upper, used)
    if upper > lower and best is not None and all(class_form(batch, k) for k in node_classes(batch)):
        placement = place_batch(batch, best, objective="guests", deterministic_limit=0.5, wall_limit_s=2.0)
        level = placement.levels[-1]
        upper = min(upper, level.value)
        if level.bound is not None:
            lower = max(lower, level.bound)
    return ActiveNodes(lower, upper, "optimal" if lower == upper else "bounded")


def _node_orders(batch: Batch, preference: Floats) -> list[Any]:
    """Orders in which to open nodes: as the linear program opens them, then the largest first by each
    resource.
    """
    size = batch.free_cpu / max(1, batch.free_cpu.max()) + batch.free_mem / max(1, batch.free_mem.max())
    gpu = np.maximum(batch.free_gpu, 0).sum(axis=1)
    return [
        np.lexsort((-size, -preference)),
        np.lexsort((-size, gpu)),
        np.lexsort((-size, -gpu)),
    ]
