"""The node's side of a command: once, fenced, and never after its undo (guarantees.md, promises 3, 7 and 12).

A node keeps a table on disk: what is done, what may never be done (tombstones), and per resource the newest epoch that
it saw. A refusal leaves no row. The table is a `Journal`; the node's own code makes the effects. The rules, in the
order in which a command meets them, are those of `admit`; node agents and the simulated nodes share them.

Rows of a task that is over need not be kept for ever: `forget` takes them away, and raises the fence of every resource
that they were about beyond the task's last epoch, so that a copy of a command that is still on its way is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from gpve.tasks.advance import Operation
from gpve.tasks.outcome import Done, Outcome, Refused

OpKey = tuple[int, str, str]
"""(task, step, direction)."""

STALE = "a newer epoch was seen"
"""The reason given to an owner that is none any more."""


class Journal(Protocol):
    """The table of operations of a node; what is written is on disk when the call returns."""

    def done(self, key: OpKey) -> dict[str, Any] | None:
        """The result recorded for an operation."""

    def record(self, operation: Operation, result: dict[str, Any]) -> None:
        """An operation is done."""

    def tombstone(self, task: int, step: str) -> bool:
        """Whether the forward direction of this step is forbidden."""

    def bury(self, operation: Operation) -> None:
        """Forbid the forward direction of the step whose undo this is."""

    def newest(self, resource: str) -> int:
        """The newest epoch seen for a resource; 0 if none."""

    def fence(self, resource: str, epoch: int) -> None:
        """A newer epoch was seen."""

    def drop(self, task: int) -> Iterable[str]:
        """Remove all rows of a task; the resources that they were about."""


@dataclass(frozen=True)
class Make:
    """The effect is to be made now. ``cut``: first end the forward direction of this step, should it be under way."""

    cut: bool = False


def key_of(operation: Operation) -> OpKey:
    """The key of an operation."""
    return operation[:3]


def admit(journal: Journal, operation: Operation) -> Outcome | Make:
    """What to do with a command that arrived: answer at once, or make its effect and then call `record`."""
    newest = journal.newest(operation.resource)
    if operation.epoch < newest:
        return Refused(STALE)
    if operation.epoch > newest:
        journal.fence(operation.resource, operation.epoch)
    result = journal.done(key_of(operation))
    if result is not None:
        return Done(result)
    if operation.direction == "do":
        if journal.tombstone(operation.task, operation.step):
            return Refused("undone before it came")
        return Make()
    # Before the undo begins: a forward command that comes in the middle of it is refused.
    journal.bury(operation)
    if operation.tombstone:
        journal.record(operation, {})
        return Done()
    return Make(cut=True)


def forget(journal: Journal, task: int, epoch: int) -> None:
    """A task is over, and ``epoch`` is the last that it had: its rows go, and what is still on its way is refused."""
    for resource in journal.drop(task):
        if journal.newest(resource) <= epoch:
            journal.fence(resource, epoch + 1)
