"""Faults by plan: which command meets which mishap, and whether it did."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from gpve.tasks.advance import Operation


class Fault(StrEnum):
    """Mishaps. The first group happens on the way to a node or on it, the second to the engine or its store."""

    REFUSE = "refuse"
    """The node answers that it changed nothing, and that trying again does not help."""
    REFUSE_ONCE = "refuse once"
    UNKNOWN = "unknown"
    """It is done, and the answer says that nobody knows."""
    LOST = "lost"
    """The command never arrives."""
    ANSWER_LOST = "answer lost"
    REPEAT = "repeat"
    """The command arrives twice."""
    LATE_DUPLICATE = "late duplicate"
    """A copy of the command arrives much later."""
    SLOW = "slow"
    """The command is delayed past the deadline of its attempt."""
    NODE_DIES_BEFORE = "node dies before"
    NODE_DIES_AFTER_EFFECT = "node dies after the effect"
    NODE_DIES_AFTER_RECORD = "node dies after the record"

    CRASH_BEFORE_SEND = "engine crashes before sending"
    """What is to be sent is recorded, and the engine dies."""
    CRASH_BEFORE_RECORD = "engine crashes before recording"
    """The answer has come, and the engine dies before it is recorded."""
    CRASH_AFTER_RECORD = "engine crashes after recording"
    LEASE_STOLEN = "lease stolen"
    """The engine stands still past its lease; another takes over; then the first goes on."""
    CANCEL = "cancel"
    STORE_ERROR = "store error"
    """The transaction that records the outcome fails, and was not made."""
    STORE_LOST = "store lost"
    """The transaction was made, and the connection broke before anybody said so; then the store is away for a while."""


_ALL = tuple(Fault)
AT_NODE = _ALL[: _ALL.index(Fault.CRASH_BEFORE_SEND)]
AT_ENGINE = _ALL[_ALL.index(Fault.CRASH_BEFORE_SEND) :]


@dataclass(frozen=True)
class Injection:
    """A fault at the first command of a step in a direction."""

    step: str
    direction: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.fault} at {self.direction} {self.step}"


@dataclass
class Faults:
    """A plan, and what became of it."""

    plan: Sequence[Injection] = ()
    late_s: float = 400.0
    """How late a late duplicate is."""
    outage_s: float = 30.0
    """How long a node or the store is away."""
    fired: list[Injection] = field(default_factory=list)

    @property
    def expected(self) -> bool:
        """Whether some of it is still to come."""
        return len(self.fired) < len(self.plan)

    def fire(self, step: str, direction: str, among: Sequence[Fault]) -> Fault | None:
        """The fault planned for this point, once."""
        for injection in self.plan:
            here = (injection.step, injection.direction) == (step, direction) and injection.fault in among
            if here and injection not in self.fired:
                self.fired.append(injection)
                return injection.fault
        return None

    def at_node(self, operation: Operation) -> Fault | None:
        """What a command meets on its way and on the node."""
        return self.fire(operation.step, operation.direction, AT_NODE)
