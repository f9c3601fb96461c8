"""Place a batch of pending requests by CP-SAT, never worse than the heuristic whose answer is the hint.

The objective is lexicographic: place the most (guests, CPU, or GPU and then CPU; times the weights), then
open the fewest empty nodes, then, if asked for, break the fewest whole devices by shares. Levels are solved
in turn, each with those before it held at their value. One worker, a fixed seed and a limit in CP-SAT's
deterministic time: the same batch has the same answer on any machine. The wall limit is a fuse: if it blows,
the hint is the answer and that is reported.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpve.scheduler.optimize.bins import Bin, Fill, assignment_of, fills_of, make_bins
from gpve.scheduler.optimize.check import Objective, unit_values, violation, worth
from gpve.scheduler.optimize.linear import Relaxed, relaxed
from gpve.scheduler.optimize.problem import Assignment, Batch, NodeClass, node_classes

Status = Literal["optimal", "feasible", "heuristic"]


@dataclass(frozen=True)
class Level:
    """One level of the objective in its own unit; ``bound`` given the values of the levels before it."""

    name: str
    """guests, cpu, gpu: placed, to be maximised; opened, broken: to be minimised."""
    value: int
    bound: int | None
    """No answer is better than this; None: a level before it is not proven, so nothing is known."""

    @property
    def gap(self) -> float | None:
        """Distance from the bound as a share of the larger of the two; 0 is proven optimal."""
        if self.bound is None:
            return None
        return abs(self.bound - self.value) / max(1, abs(self.bound), abs(self.value))


@dataclass(frozen=True)
class Placement:
    """An answer, where it comes from and how far from the best it can be."""

    assignment: Assignment
    status: Status
    """optimal: proven on every level; feasible: better than the hint, or as good; heuristic: the hint
    itself.
    """
    levels: tuple[Level, ...]
    form: Literal["classes", "nodes", "mixed"]
    """Whether bins are classes of equal nodes, single nodes, or both."""
    fuse_blown: bool
    deterministic_time: float
    """CP-SAT's own measure of work."""
    wall_s: float
    """Seconds inside CP-SAT."""

    @property
    def gap(self) -> float:
        """The gap of the first level that is not proven; 0 if all are."""
        return next((level.gap for level in self.levels if level.gap), 0.0)


@dataclass
class Solved:
    """What a run over the levels found."""

    answer: list[Fill] | None
    """None: the solver was not asked, or found nothing."""
    bounds: list[int | None]
    """Per level, as maximised."""
    fuse_blown: bool
    deterministic_time: float
    wall_s: float


def place_batch(
    batch: Batch,
    hint: Assignment,
    *,
    objective: Objective = "cpu",
    spare_devices: bool = False,
    deterministic_limit: float = 2.0,
    wall_limit_s: float = 60.0,
    by_class: bool = True,
) -> Placement:
    """The best placement found of the batch, at least as good as ``hint`` on every level that decides.

    ``hint`` must be feasible (`check.violation`), else ValueError. ``by_class=False`` gives every node
    variables of its own even where counts per class are exact: for comparison.
    """
    if (wrong := violation(batch, hint)) is not None:
        raise ValueError(f"the hint is no placement: {wrong}")
    run = _Run(batch, hint, objective, spare_devices, deterministic_limit, wall_limit_s)
    classes = node_classes(batch)
    bins = make_bins(batch, classes, spare_devices=spare_devices, by_class=by_class)
    names, run.best = _names_and_best(batch, classes, objective, spare_devices)
    if run.worth != run.best and _form(bins) != "classes":
        # Linear bounds are worth their time where single nodes make the model large; and where the linear
        # optimum places nothing of a class, a good answer seldom does: a small model comes first.
        linear = [relaxed(batch, classes, unit) for _, unit in unit_values(batch, objective)]
        bounds = tuple(min(a, r.bound) for a, r in zip(run.best, linear, strict=False))
        run.best = bounds + run.best[len(bounds) :]
        likely = _likely(batch, classes, hint, linear)
        run.improve(make_bins(batch, likely, spare_devices=spare_devices, by_class=by_class), share=0.5)
    run.improve(bins, share=1.0)
    bounds_found = run.bounds if run.bounds is not None else (*run.best[:1], *([None] * (len(names) - 1)))
    levels = tuple(
        Level(name, abs(value), None if bound is None else abs(bound))
        for name, value, bound in zip(names, run.worth, bounds_found, strict=True)
    )
    status: Status = "optimal" if bounds_found == run.worth else "feasible" if run.answered else "heuristic"
    return Placement(run.assignment, status, levels, _form(bins), run.fuse_blown, run.deterministic_time, run.wall_s)


@dataclass
class _Run:
    """The best answer so far, and what is left to spend on a better one."""

    batch: Batch
    assignment: Assignment
    objective: Objective
    spare_devices: bool
    deterministic_limit: float
    wall_limit_s: float
    best: tuple[int, ...] = ()
    """What no answer exceeds on each level, whatever the levels before it are."""
    bounds: tuple[int | None, ...] | None = None
    """Of the full model: per level, given the levels before it."""
    answered: bool = False
    fuse_blown: bool = False
    deterministic_time: float = 0.0
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        self.hint = self.assignment
        self.worth = worth(self.batch, self.assignment, self.objective, self.spare_devices)

    def improve(self, bins: list[Bin], share: float) -> None:
        """Solve the model of these bins from the best answer so far, up to ``share`` of the limit in all.

        A share below 1 is a model that leaves placements out: its bounds bound nothing.
        """
        if self.worth == self.best:
            self.bounds = self.best
            return
        limit = share * self.deterministic_limit - self.deterministic_time
        if self.fuse_blown or limit <= 0:
            return
        from gpve.scheduler.optimize.formulation import Formulation  # half a second to import

        formulation = Formulation(self.batch, bins, self.objective, self.spare_devices)
        formulation.hint(fills_of(self.batch, bins, self.assignment))
        solved = solve_levels(formulation, self.worth, self.best, limit, self.wall_limit_s - self.wall_s)
        self.deterministic_time += solved.deterministic_time
        self.wall_s += solved.wall_s
        if solved.fuse_blown:
            # What an earlier model found stands or falls with the clock as well: back to the hint.
            self.fuse_blown, self.answered, self.assignment = True, False, self.hint
            self.worth = worth(self.batch, self.hint, self.objective, self.spare_devices)
            return
        if solved.answer is not None:
            found = assignment_of(self.batch, bins, solved.answer)
            if violation(self.batch, found) is None:
                value = worth(self.batch, found, self.objective, self.spare_devices)
                self.answered = self.answered or value >= self.worth
                if value > self.worth:
                    self.assignment, self.worth = found, value
        if share == 1.0:
            self.bounds = tuple(solved.bounds)


def _likely(batch: Batch, classes: list[NodeClass], hint: Assignment, linear: list[Relaxed]) -> list[NodeClass]:
    """The node classes with only those request classes that the linear optimum or the hint places there."""
    class_of = {n: i for i, k in enumerate(classes) for n in k.nodes}
    kept = [{c for r in linear for c, x in r.counts[i].items() if x > 1e-6} for i in range(len(classes))]
    for n, c in zip(hint.node.tolist(), batch.request_class.tolist(), strict=True):
        if n >= 0:
            kept[class_of[n]].add(c)
    return [
        replace(k, fit={c: most for c, most in k.fit.items() if c in keep})
        for k, keep in zip(classes, kept, strict=True)
        if keep
    ]


def solve_levels(
    formulation: Any,
    start: tuple[int, ...],
    best: tuple[int, ...],
    deterministic_limit: float,
    wall_limit_s: float,
) -> Solved:
    """Maximise the levels of ``formulation`` in turn from its hint, worth ``start``; ``best`` bounds each
    trivially.
    """
    from ortools.sat.python import cp_model

    model = formulation.model
    solved = Solved(None, [None] * len(start), False, 0.0, 0.0)
    solver: Any = None
    for i, (_, expression) in enumerate(formulation.levels):
        # Once an answer is found, the later levels start from wherever it stands.
        current = start[i] if solver is None else solver.value(expression)
        if current == best[i]:
            solved.bounds[i] = current
            model.add(expression == current)
            continue
        solved.bounds[i] = best[i]
        if solved.deterministic_time >= deterministic_limit:
            break
        model.maximize(expression)
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        # Both look for structure that the formulation has used already, at up to half of the time (measured).
        solver.parameters.symmetry_level = 0
        solver.parameters.cp_model_probing_level = 0
        solver.parameters.max_deterministic_time = deterministic_limit - solved.deterministic_time
        solver.parameters.max_time_in_seconds = max(0.0, wall_limit_s - solved.wall_s)
        status = solver.solve(model)
        solved.wall_s += solver.wall_time
        solved.deterministic_time += solver.response_proto.deterministic_time
        if status != cp_model.OPTIMAL and solved.wall_s >= wall_limit_s:
            return Solved(None, [None] * len(start), True, solved.deterministic_time, solved.wall_s)
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            solved.answer = formulation.read(solver)
            solved.bounds[i] = min(best[i], math.floor(solver.best_objective_bound + 1e-6))
        if status != cp_model.OPTIMAL:
            break
        formulation.hint(solved.answer)
        model.add(expression == solver.value(expression))
    return solved


def _names_and_best(
    batch: Batch, classes: list[NodeClass], objective: Objective, spare_devices: bool
) -> tuple[list[str], tuple[int, ...]]:
    """Names of the levels, and what no answer exceeds: all that fits alone placed, nothing opened or
    broken.
    """
    units = unit_values(batch, objective)
    names = [name for name, _ in units] + ["opened"] + ["broken"] * spare_devices
    alone = [
        min(count, sum(len(k.nodes) * k.fit.get(c, 0) for k in classes)) for c, count in enumerate(batch.count.tolist())
    ]
    totals = [sum(u * n for u, n in zip(unit, alone, strict=True)) for _, unit in units]
    return names, (*totals, *([0] * (1 + spare_devices)))


def _form(bins: list[Bin]) -> Literal["classes", "nodes", "mixed"]:
    by_class = {b.rows is not None for b in bins}
    return "mixed" if len(by_class) == 2 else "nodes" if by_class == {False} else "classes"
