"""The linear programs behind the bounds: counts per class of equal nodes and request class, with the rows of
`relax`.

Bounds are not read off the solver's primal value but computed from its dual values by weak duality, which
holds for any non-negative numbers: the solver's tolerances cannot make a bound wrong, only a little weaker.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpve.scheduler.optimize.problem import Batch, Ints, NodeClass
from gpve.scheduler.optimize.relax import Floats, Relaxation, relaxation

ROUNDING = 1e-9
"""Relative error of summing in float64, with room to spare."""


@dataclass(frozen=True)
class Relaxed:
    """The linear optimum over all placements and more."""

    bound: int
    """No placement is worth more."""
    counts: list[dict[int, float]]
    """For each node class, how much of each request class the linear optimum places there: what a good answer
    may do.
    """


@dataclass(frozen=True)
class Opened:
    """The linear optimum over all ways to carry a demand."""

    bound: int
    """No placement opens fewer nodes."""
    share: list[float]
    """(K,) the share that the linear optimum opens of each empty node class; 0 of the others."""
    counts: list[dict[int, float]]
    """As in `Relaxed`."""


def relaxed(batch: Batch, classes: list[NodeClass], unit: list[int]) -> Relaxed:
    """The most that the placed requests are worth, at ``unit`` (C,) each.

    The counts X of any placement satisfy every row A X <= b of `relax` and X <= count. For any y >= 0 so
    unit X <= y b + sum over c of count_c max(0, unit_c - min over k of (y A)_kc), as each request lies on
    some node class k that it fits on.
    """
    if not classes:
        return Relaxed(0, [])
    worth = np.array(unit, np.float64)
    parts = [relaxation(batch, k) for k in classes]
    optimum = _solve(parts, [False] * len(parts), np.zeros(len(worth)), batch.count, worth)
    price = _prices(parts, optimum.duals, len(worth))
    rooms = sum(float(y @ p.rooms) * p.nodes for y, p in zip(optimum.duals, parts, strict=True))
    fits = np.isfinite(price)
    bound = rooms + float(batch.count[fits] @ np.maximum(0.0, worth[fits] - price[fits]))
    return Relaxed(math.floor(bound * (1 + ROUNDING) + 1e-6), optimum.counts)


def least_opened(batch: Batch, classes: list[NodeClass], demand: Ints) -> Opened:
    """The fewest empty nodes that must be opened where at least ``demand`` (C,) requests of each class are
    placed.

    For any y >= 0 let p_c be the least (y A)_kc over the node classes k that c fits on and V_k = y b_k. A
    placement that opens O_k of the M_k nodes of the empty classes has sum demand_c p_c <= sum of (y A)_kc
    X_kc <= sum of V_k O_k over the empty classes + sum of V_k M_k over the running ones, and V_k O_k <= O_k +
    M_k max(0, V_k - 1). So sum O_k >= sum demand_c p_c - sum of M_k V_k over the running ones - sum of M_k
    max(0, V_k - 1) over the empty ones.
    """
    parts = [relaxation(batch, k, opened=0 if k.empty else None) for k in classes]
    empty = [k.empty for k in classes]
    optimum = _solve(parts, empty, demand, demand, None)
    price = _prices(parts, optimum.duals, len(demand))
    wanted = demand > 0
    if not np.isfinite(price[wanted]).all():
        raise ValueError("what fits on no node is to be placed")
    bound = float(demand[wanted] @ price[wanted])
    for p, y, opens in zip(parts, optimum.duals, empty, strict=True):
        value = float(y @ p.rooms)
        bound -= p.nodes * (max(0.0, value - 1) if opens else value)
    # Where nothing runs, what is asked for lies on at least one node.
    least = int(bool(wanted.any()) and all(empty))
    return Opened(max(least, math.ceil(bound * (1 - ROUNDING) - 1e-6)), optimum.share, optimum.counts)


def _prices(parts: list[Relaxation], duals: list[Floats], classes: int) -> Floats:
    """(C,) the least (y A)_kc over node classes k that the class fits on; infinite where it fits on none."""
    price = np.full(classes, np.inf)
    for y, p in zip(duals, parts, strict=True):
        price[p.fit] = np.minimum(price[p.fit], y @ p.coefficients)
    return price


@dataclass(frozen=True)
class _Optimum:
    """What the solver says; all zero if it found no optimum."""

    duals: list[Floats]
    """For each part, (rows,) at least 0."""
    counts: list[dict[int, float]]
    share: list[float]


def _solve(parts: list[Relaxation], opens: list[bool], least: Any, most: Any, worth: Floats | None) -> _Optimum:
    """Maximise ``worth`` (C,) of what is placed, or (None) minimise the nodes opened of the parts that open.

    Requests placed of each class lie between ``least`` and ``most`` (C,).
    """
    from ortools.linear_solver.python import model_builder_helper
    from scipy.sparse import csr_matrix

    helper: Any = model_builder_helper  # its type stubs know no shapes of arrays
    openers = [k for k, o in enumerate(opens) if o]
    fits = np.concatenate([np.array(p.fit, np.int64) for p in parts]) if parts else np.zeros(0, np.int64)
    first_column = np.cumsum([0] + [len(p.fit) for p in parts])
    first_row = np.cumsum([0] + [len(p.rooms) for p in parts])
    rows, columns, values = [fits + first_row[-1]], [np.arange(len(fits))], [np.ones(len(fits))]
    upper = []
    for k, p in enumerate(parts):
        row, column = np.nonzero(p.coefficients)
        rows.append(row + first_row[k])
        columns.append(column + first_column[k])
        values.append(p.coefficients[row, column])
        upper.append(np.zeros(len(p.rooms)) if opens[k] else p.rooms * p.nodes)
    for j, k in enumerate(openers):
        rows.append(np.arange(first_row[k], first_row[k + 1]))
        columns.append(np.full(len(parts[k].rooms), len(fits) + j))
        values.append(-parts[k].rooms)
    shape = first_row[-1] + len(most), len(fits) + len(openers)
    matrix = csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    nodes = np.array([parts[k].nodes for k in openers], np.float64)
    model = helper.ModelBuilderHelper()
    model.fill_model_from_sparse_data(
        np.zeros(shape[1]),
        np.concatenate([np.full(len(fits), np.inf), nodes]),
        np.concatenate([np.zeros(len(fits)), np.ones(len(nodes))]) if worth is None else worth[fits],
        np.concatenate([np.full(first_row[-1], -np.inf), np.asarray(least, np.float64)]),
        np.concatenate([*upper, np.asarray(most, np.float64)]),
        matrix,
    )
    model.set_maximize(worth is not None)
    solver = helper.ModelSolverHelper("glop")
    solver.solve(model)
    duals, x = np.zeros(shape[0]), np.zeros(shape[1])
    if solver.status() == helper.SolveStatus.OPTIMAL:
        duals = np.maximum(0.0, solver.dual_values() if worth is not None else -solver.dual_values())
        x = solver.variable_values()
    counts = [
        dict(zip(p.fit, x[a:b].tolist(), strict=True)) for p, (a, b) in zip(parts, pairwise(first_column), strict=True)
    ]
    share = np.zeros(len(parts))
    share[openers] = x[len(fits) :] / np.maximum(1.0, nodes)
    return _Optimum([duals[a:b] for a, b in pairwise(first_row)], counts, share.tolist())
