"""The linear programs behind the bounds: counts per class of equal nodes and request class, with the rows of
`relax`.

Bounds are not read off the solver's primal value but computed from its dual values by weak duality, which
holds for any non-negative numbers: the solver's tolerances cannot make a bound wrong, only a little weaker.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpve.scheduler.optimize.problem import Batch, NodeClass
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
    duals, counts = _solve_placed(parts, worth, batch.count)
    price = prices(parts, duals, len(worth))
    rooms = sum(float(y @ p.rooms) * p.nodes for y, p in zip(duals, parts, strict=True))
    fits = np.isfinite(price)
    bound = rooms + float(batch.count[fits] @ np.maximum(0.0, worth[fits] - price[fits]))
    return Relaxed(math.floor(bound * (1 + ROUNDING) + 1e-6), counts)


def prices(parts: list[Relaxation], duals: list[Floats], classes: int) -> Floats:
    """(C,) the least (y A)_kc over node classes k that the class fits on; infinite where it fits on none."""
    price = np.full(classes, np.inf)
    for y, p in zip(duals, parts, strict=True):
        price[p.fit] = np.minimum(price[p.fit], y @ p.coefficients)
    return price


def _solve_placed(parts: list[Relaxation], worth: Floats, count: Any) -> tuple[list[Floats], list[dict[int, float]]]:
    """Dual values of the rows of each node class in: maximise worth X, X per class at most its count; and
    X.
    """
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("GLOP")
    x = [[solver.NumVar(0, solver.infinity(), "") for _ in p.fit] for p in parts]
    rows = []
    for p, variables in zip(parts, x, strict=True):
        rows.append(
            _add_rows(solver, p, variables, [solver.Constraint(-solver.infinity(), r * p.nodes) for r in p.rooms])
        )
    for c in range(len(worth)):
        row = solver.Constraint(-solver.infinity(), float(count[c]))
        for p, variables in zip(parts, x, strict=True):
            if c in p.fit:
                row.SetCoefficient(variables[p.fit.index(c)], 1)
    objective = solver.Objective()
    for p, variables in zip(parts, x, strict=True):
        for c, variable in zip(p.fit, variables, strict=True):
            objective.SetCoefficient(variable, float(worth[c]))
    objective.SetMaximization()
    solver.Solve()
    counts = [
        {c: variable.solution_value() for c, variable in zip(p.fit, variables, strict=True)}
        for p, variables in zip(parts, x, strict=True)
    ]
    return [np.maximum(0.0, [r.dual_value() for r in part]) for part in rows], counts


def solve_active(parts: list[Relaxation], count: Any) -> tuple[list[Floats], list[float]]:
    """Dual values (their sign turned) in: open the fewest nodes that carry all; and the share opened of each
    class.
    """
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("GLOP")
    opened = [solver.NumVar(0, p.nodes, "") for p in parts]
    x = [[solver.NumVar(0, solver.infinity(), "") for _ in p.fit] for p in parts]
    rows = []
    for p, variables, o in zip(parts, x, opened, strict=True):
        added = [solver.Constraint(-solver.infinity(), 0) for _ in p.rooms]
        for row, room in zip(added, p.rooms, strict=True):
            row.SetCoefficient(o, -float(room))
        rows.append(_add_rows(solver, p, variables, added))
    for c in np.flatnonzero(count).tolist():
        row = solver.Constraint(float(count[c]), float(count[c]))
        for p, variables in zip(parts, x, strict=True):
            if c in p.fit:
                row.SetCoefficient(variables[p.fit.index(c)], 1)
    objective = solver.Objective()
    for o in opened:
        objective.SetCoefficient(o, 1)
    objective.SetMinimization()
    solver.Solve()
    shares = [o.solution_value() / p.nodes for o, p in zip(opened, parts, strict=True)]
    return [np.maximum(0.0, [-r.dual_value() for r in part]) for part in rows], shares


def _add_rows(solver: Any, p: Relaxation, variables: list[Any], rows: list[Any]) -> list[Any]:
    for row, coefficients in zip(rows, p.coefficients, strict=True):
        for j in np.flatnonzero(coefficients).tolist():
            row.SetCoefficient(variables[j], float(coefficients[j]))
    return rows
