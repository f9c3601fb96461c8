"""Every fault at every step of a flow, singly and in pairs: the plans of a sweep.

The harness must prove its own reach: a plan whose faults did not fire has tested nothing. So the points of a flow are
not guessed but read off runs: one without faults, and one for each step that is made to fail, which reach the undo
steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

from gpve.tasks.events import Kind
from gpve.tasks.flow import Flows
from gpve.tasks.flows import FLOWS
from gpve.world.placer import Placer
from gpve_sim.world.faults import Fault, Injection
from gpve_sim.world.trial import Trial, run_trial

AT_RECORD = (Fault.STORE_ERROR, Fault.STORE_LOST, Fault.CRASH_AFTER_RECORD)
"""What can befall a step that is made in the store alone."""


@dataclass(frozen=True)
class Point:
    """A step in a direction. ``at_node``: it sends a command. ``way``: the faults that lead there, if it takes any."""

    step: str
    direction: str
    at_node: bool
    way: tuple[Injection, ...] = ()

    def faults(self) -> tuple[Fault, ...]:
        """What can happen here."""
        return tuple(Fault) if self.at_node else AT_RECORD


def points_of(flow: str, placer: Callable[[], Placer], flows: Flows = FLOWS) -> list[Point]:
    """All points of a flow that some run reaches, forward ones first."""
    found: dict[tuple[str, str], Point] = {}

    def note(trial: Trial, way: tuple[Injection, ...]) -> None:
        sent = {(row["step"], row["kind"]) for row in trial.log}
        for step, direction in trial.points:
            at_node = (step, Kind.STARTED if direction == "do" else Kind.UNDOING) in sent
            if (step, direction) not in found:
                found[step, direction] = Point(step, direction, at_node, way)

    note(run_trial(flow, (), placer, flows=flows), ())
    for point in list(found.values()):
        if point.at_node:
            for fault in (Fault.REFUSE, Fault.CANCEL):
                way = (Injection(point.step, "do", fault),)
                note(run_trial(flow, way, placer, flows=flows), way)
    return list(found.values())


def singles(points: list[Point]) -> Iterator[tuple[Injection, ...]]:
    """Every fault at every point, after the faults that lead there; the fault in question stands last."""
    for point in points:
        for fault in point.faults():
            yield (*point.way, Injection(point.step, point.direction, fault))


def pairs(points: list[Point]) -> Iterator[tuple[Injection, ...]]:
    """Every two faults, after the faults that lead to them; at one point in both orders, for each meets its own
    attempt.

    At different points the order is that of the run, whatever that of the plan.
    """
    for point in points:
        for first in point.faults():
            for second in point.faults():
                if first != second:
                    here = (point.step, point.direction)
                    yield (*point.way, Injection(*here, first), Injection(*here, second))
    for one, other in combinations(points, 2):
        way = dict.fromkeys((*one.way, *other.way))
        for first in one.faults():
            for second in other.faults():
                plan = (Injection(one.step, one.direction, first), Injection(other.step, other.direction, second))
                yield (*(injection for injection in way if injection not in plan), *plan)
