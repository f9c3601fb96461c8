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

import numpy as np

from gpve.scheduler.optimize.bins import Bin, Fill, assignment_of, fills_of, make_bins, needed
from gpve.scheduler.optimize.check import Objective, unit_values, violation, worth
from gpve.scheduler.optimize.linear import Opened, least_opened, relaxed
from gpve.scheduler.optimize.problem import Assignment, Batch, Ints, NodeClass, node_classes
from gpve.scheduler.optimize.quick import quick_answers
from gpve.scheduler.optimize.relax import Floats
from gpve.scheduler.optimize.repair import NODES, ROUND_COST, ROUND_LIMIT, part_of, with_part

Status = Literal["optimal", "feasible", "heuristic"]

VARIABLES_PER_TIME = 100_000
"""Of a model, per unit of deterministic time to be had: to build a larger one takes longer than the solver then
does anything with it.
"""


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
    quick: bool = True,
) -> Placement:
    """The best placement found of the batch, at least as good as ``hint`` on every level that decides.

    Bounds and quick answers come first (`linear`, `quick`): often they meet, and no model is built. Then, as
    long as requests are left out, models of a few nodes at a time (`repair`); a small model, of what the
    linear optimum and the best answer place where; and last the full one, unless it is too large for its time
    (`VARIABLES_PER_TIME`): only the full one can prove more than the linear bounds do.

    ``hint`` must be feasible (`check.violation`), else ValueError. For comparison, ``by_class=False`` gives
    every node variables of its own even where counts per class are exact, and ``quick=False`` leaves out what
    is not a model of all nodes.
    """
    if (wrong := violation(batch, hint)) is not None:
        raise ValueError(f"the hint is no placement: {wrong}")
    run = _Run(batch, hint, objective, spare_devices, deterministic_limit, wall_limit_s)
    classes = node_classes(batch)
    names, run.best, alone = _names_and_best(batch, classes, objective, spare_devices)
    limits = _Limits(batch, classes, objective, alone, run.best)
    bins = make_bins(batch, classes, spare_devices=spare_devices, by_class=by_class)
    form = _form(bins)
    # Linear bounds are worth their time where single nodes make the model large.
    linear = form != "classes"
    if linear:
        run.best = limits.tighten(run.worth)
    if quick and run.worth != run.best:
        for answer in quick_answers(batch, hint, limits.preference()):
            run.offer(answer)
            if run.worth == run.best:
                break
        if linear:
            run.best = limits.tighten(run.worth)
    if run.worth != run.best:
        if linear and quick and len(batch.free_cpu) > 2 * NODES:
            run.repair(share=0.5)
        opened = limits.most_opened(run.worth)
        if linear:
            # Where the linear optimum places nothing of a class, a good answer seldom does.
            likely = _likely(batch, classes, run.assignment, limits.counts)
            few = make_bins(batch, likely, spare_devices=spare_devices, by_class=by_class)
            run.improve(needed(few, opened), share=0.75)
        run.improve(needed(bins, opened), share=1.0)
    bounds = run.bounds
    if bounds is None:
        # What is beyond the first level that is not proven depends on it: nothing is known.
        proven = [i for i, (value, best) in enumerate(zip(run.worth, run.best, strict=True)) if value != best]
        known = len(names) if not proven else proven[0] + 1
        bounds = (*run.best[:known], *([None] * (len(names) - known)))
    levels = tuple(
        Level(name, abs(value), None if bound is None else abs(bound))
        for name, value, bound in zip(names, run.worth, bounds, strict=True)
    )
    status: Status = "optimal" if bounds == run.worth else "feasible" if run.answered else "heuristic"
    return Placement(run.assignment, status, levels, form, run.fuse_blown, run.deterministic_time, run.wall_s)


class _Limits:
    """What no answer exceeds on each level, as far as linear programs were asked."""

    def __init__(
        self, batch: Batch, classes: list[NodeClass], objective: Objective, alone: Ints, best: tuple[int, ...]
    ) -> None:
        self.batch = batch
        self.classes = classes
        self.units = [np.array(unit, np.int64) for _, unit in unit_values(batch, objective)]
        self.totals = best[: len(self.units)]
        self.best = list(best)
        self.counts: list[list[dict[int, float]]] = []
        """Per linear program and node class, what its optimum places there."""
        self.alone = alone
        self.opened: Opened | None = None
        self._asked: set[int] = set()

    def complete(self, worth: tuple[int, ...]) -> bool:
        """Whether all is placed that counts: no answer then places less, and fewer nodes opened is all there is to
        gain, but for devices."""
        return worth[: len(self.units)] == self.totals

    def most_opened(self, worth: tuple[int, ...]) -> int | None:
        """The most empty nodes that an answer as good as this one opens, None if that is not known."""
        return -worth[len(self.units)] if self.complete(worth) else None

    def tighten(self, worth: tuple[int, ...]) -> tuple[int, ...]:
        """The bounds for an answer worth ``worth`` and all that are better; asks only where it falls short."""
        for i, unit in enumerate(self.units):
            if worth[i] < self.best[i] and i not in self._asked:
                self._asked.add(i)
                found = relaxed(self.batch, self.classes, unit.tolist())
                self.best[i] = min(self.best[i], found.bound)
                self.counts.append(found.counts)
        opened = len(self.units)
        if self.complete(worth) and worth[opened] < 0 and self.opened is None:
            # All that has a worth and fits alone is placed, in this answer and in every one that is no worse.
            counts_for = sum(unit > 0 for unit in self.units) > 0
            self.opened = least_opened(self.batch, self.classes, np.where(counts_for, self.alone, 0))
            self.best[opened] = -self.opened.bound
            self.counts.append(self.opened.counts)
        return tuple(self.best)

    def preference(self) -> Floats:
        """(N,) the share of each node that the linear optimum opens, 0 where it was not asked."""
        out = np.zeros(len(self.batch.free_cpu))
        if self.opened is not None:
            for k, share in zip(self.classes, self.opened.share, strict=True):
                out[list(k.nodes)] = share
        return out


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

    def offer(self, answer: Assignment) -> None:
        """Take this answer if it is better than the best so far."""
        value = worth(self.batch, answer, self.objective, self.spare_devices)
        if value > self.worth and violation(self.batch, answer) is None:
            self.answered, self.assignment, self.worth = True, answer, value

    def repair(self, share: float) -> None:
        """Repack a few nodes at a time together with what is placed nowhere, up to ``share`` of the limit in all."""
        draw = np.random.default_rng(0)
        spent = 0.0
        while spent < share * self.deterministic_limit and self.worth != self.best and not self.fuse_blown:
            used = np.unique(self.assignment.node[self.assignment.node >= 0])
            if len(used) == 0 or (self.assignment.node >= 0).all():
                return
            nodes = np.sort(draw.choice(used, min(NODES, len(used)), replace=False))
            part, hint, requests = part_of(self.batch, self.assignment, nodes)
            placed = place_batch(
                part,
                hint,
                objective=self.objective,
                spare_devices=self.spare_devices,
                deterministic_limit=ROUND_LIMIT,
                wall_limit_s=self.wall_limit_s - self.wall_s,
            )
            spent += max(ROUND_COST, placed.deterministic_time)
            self.deterministic_time += placed.deterministic_time
            self.wall_s += placed.wall_s
            if placed.fuse_blown:
                self._back_to_the_hint()
            else:
                self.offer(with_part(self.assignment, nodes, requests, placed.assignment))

    def _back_to_the_hint(self) -> None:
        """What was found so far stands or falls with the clock as well."""
        self.fuse_blown, self.answered, self.assignment = True, False, self.hint
        self.worth = worth(self.batch, self.hint, self.objective, self.spare_devices)

    def improve(self, bins: list[Bin], share: float) -> None:
        """Solve the model of these bins from the best answer so far, up to ``share`` of the limit in all.

        A share below 1 is a model that leaves placements out: its bounds bound nothing.
        """
        if self.worth == self.best:
            self.bounds = self.best
            return
        limit = share * self.deterministic_limit - self.deterministic_time
        too_large = _variables(bins) > VARIABLES_PER_TIME * self.deterministic_limit
        if self.fuse_blown or limit <= 0 or too_large:
            return
        from gpve.scheduler.optimize.formulation import Formulation  # half a second to import

        formulation = Formulation(self.batch, bins, self.objective, self.spare_devices)
        formulation.hint(fills_of(self.batch, bins, self.assignment))
        solved = solve_levels(formulation, self.worth, self.best, limit, self.wall_limit_s - self.wall_s)
        self.deterministic_time += solved.deterministic_time
        self.wall_s += solved.wall_s
        if solved.fuse_blown:
            self._back_to_the_hint()
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


def _likely(
    batch: Batch, classes: list[NodeClass], answer: Assignment, counts: list[list[dict[int, float]]]
) -> list[NodeClass]:
    """The node classes with only those request classes that a linear optimum or the answer places there."""
    class_of = {n: i for i, k in enumerate(classes) for n in k.nodes}
    kept = [{c for found in counts for c, x in found[i].items() if x > 1e-6} for i in range(len(classes))]
    for n, c in zip(answer.node.tolist(), batch.request_class.tolist(), strict=True):
        if n >= 0:
            kept[class_of[n]].add(c)
    return [
        replace(k, fit={c: most for c, most in k.fit.items() if c in keep})
        for k, keep in zip(classes, kept, strict=True)
        if keep
    ]


def _variables(bins: list[Bin]) -> int:
    """About as many as the model of these bins has."""
    return sum(len(b.node_class.fit) * (1 + (len(b.node_class.gpu) if b.device_rows is None else 0)) for b in bins)


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
) -> tuple[list[str], tuple[int, ...], Ints]:
    """Names of the levels, what no answer exceeds (all that fits alone placed, nothing opened or broken), and (C,) how
    many of each class fit alone.
    """
    units = unit_values(batch, objective)
    names = [name for name, _ in units] + ["opened"] + ["broken"] * spare_devices
    alone = np.zeros(len(batch.cpu), np.int64)
    for k in classes:
        for c, most in k.fit.items():
            alone[c] += len(k.nodes) * most
    alone = np.minimum(alone, batch.count)
    totals = [int(np.array(unit, np.int64) @ alone) for _, unit in units]
    return names, (*totals, *([0] * (1 + spare_devices))), alone


def _form(bins: list[Bin]) -> Literal["classes", "nodes", "mixed"]:
    by_class = {b.rows is not None for b in bins}
    return "mixed" if len(by_class) == 2 else "nodes" if by_class == {False} else "classes"
