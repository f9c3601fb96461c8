"""The state of a task: the fold of its log, and nothing that the log does not say."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gpve.tasks.events import Event, Kind


class Status(StrEnum):
    """What a list of tasks shows."""

    QUEUED = "queued"
    """Waits for its locks or for an engine."""
    RUNNING = "running"
    WAITING = "waiting"
    """Waits until a node fits."""
    UNDOING = "undoing"
    STUCK = "stuck"
    DONE = "done"
    UNDONE = "undone"


CLOSED = (Status.DONE, Status.UNDONE)


class At(StrEnum):
    """Where a step stands."""

    IDLE = "idle"
    SENT = "sent"
    """Its command was, or may have been, sent, and its outcome is open."""
    DONE = "done"
    SKIPPED = "skipped"
    REFUSED = "refused"
    """The last attempt is known to have changed nothing."""
    UNDOING = "undoing"
    UNDONE = "undone"


AT_ONCE = float("-inf")
"""A time that is over, whatever the store's clock says."""


@dataclass(slots=True)
class StepState:
    """One step of one task."""

    at: At = At.IDLE
    attempts: int = 0
    """In the present direction."""
    since: float = 0.0
    """First attempt in the present direction."""
    retry_at: float = AT_ONCE
    """Not before this time."""
    completed: int = -1
    """Position in the log at which its forward direction last moved: what reverse order means."""
    result: dict[str, Any] | None = None
    reached: bool = False
    """Some attempt may have reached a node: at least a tombstone is due, against a copy that comes late."""
    doubt: bool = False
    """Some attempt ended without a known outcome: its undo is due, whatever a later attempt answered."""
    tombstone: bool = False
    """Its undo under way only forbids what may still come: nothing is there."""
    failed: str | None = None
    """Why its forward direction is over without success."""
    gave_up: str | None = None
    """Why its undo (or, after the commit point, its forward direction) rests until an operator resumes it."""
    said: str | None = None
    """What the last attempt that did not succeed had to say."""

    def copy(self) -> "StepState":
        """A copy that can be folded further; results are never changed in place."""
        return StepState(
            self.at,
            self.attempts,
            self.since,
            self.retry_at,
            self.completed,
            self.result,
            self.reached,
            self.doubt,
            self.tombstone,
            self.failed,
            self.gave_up,
            self.said,
        )


UNTOUCHED = StepState()
"""A step of which the log says nothing. Nobody changes it: `TaskState.changing` hands out what may be."""


@dataclass(slots=True)
class TaskState:
    """A task, folded up to some event."""

    target: Any = None
    status: Status = Status.QUEUED
    seq: int = 0
    """Number of events folded."""
    epoch: int = 0
    began: bool = False
    submitted_at: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, StepState] = field(default_factory=dict)
    cancel: str | None = None
    cancel_answered: bool = False
    failed: str | None = None
    """Why it is undone."""
    waiting: dict[str, int] | None = None
    """Reasons why no node fits, with counts, as last recorded."""

    def step(self, name: str) -> StepState:
        """The state of a step, to look at."""
        return self.steps.get(name, UNTOUCHED)

    def copy(self) -> "TaskState":
        """A copy that can be folded further: `apply` replaces the steps that it changes."""
        return TaskState(
            self.target,
            self.status,
            self.seq,
            self.epoch,
            self.began,
            self.submitted_at,
            self.facts,
            dict(self.steps),
            self.cancel,
            self.cancel_answered,
            self.failed,
            self.waiting,
        )

    def changing(self, name: str) -> StepState:
        """The state of a step, to change it here and in no copy."""
        found = self.steps.get(name)
        found = self.steps[name] = StepState() if found is None else found.copy()
        return found


class Results(Mapping[str, dict[str, Any]]):
    """Results of the steps that were done, by name, in whichever direction the task goes by now: always the newest."""

    def __init__(self, state: TaskState) -> None:
        self._state = state

    def __getitem__(self, name: str) -> dict[str, Any]:
        result = self._state.step(name).result
        if result is None:
            raise KeyError(name)
        return result

    def get(self, name: str, default: Any = None) -> Any:
        """The result of a step, or ``default``: asked for so often that no error may be raised on the way."""
        result = self._state.step(name).result
        return default if result is None else result

    def __iter__(self) -> Iterator[str]:
        return (name for name, step in self._state.steps.items() if step.result is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def fold(events: Iterable[Event]) -> TaskState:
    """The state after all events."""
    state = TaskState()
    for event in events:
        apply(state, event)
    return state


def apply(state: TaskState, event: Event) -> None:
    """Fold one more event."""
    data = event.data
    if event.step and event.kind is not Kind.WAITING:
        _apply_to_step(state, state.changing(event.step), event)
        state.seq += 1
        return
    match event.kind:
        case Kind.SUBMITTED:
            state.target = data["target"]
            state.submitted_at = event.at
        case Kind.CLAIMED:
            state.epoch = event.epoch
            for name, step in list(state.steps.items()):
                # What the owner before may have sent, nobody knows.
                if step.at is At.SENT:
                    state.changing(name).doubt = True
        case Kind.BEGAN:
            state.began = True
            state.facts = data["facts"]
            state.status = Status.RUNNING
        case Kind.WAITING:
            state.waiting = data["reasons"]
            state.status = Status.WAITING
        case Kind.CANCEL:
            state.cancel = data["reason"]
            state.cancel_answered = True
        case Kind.FAILED:
            state.failed = data["reason"]
            state.status = Status.UNDOING
        case Kind.STUCK:
            state.status = Status.STUCK
        case Kind.RESUMED:
            for name, step in list(state.steps.items()):
                if step.gave_up is not None:
                    other = state.changing(name)
                    other.gave_up, other.attempts, other.since, other.retry_at = None, 0, event.at, event.at
            state.status = Status.UNDOING if state.failed is not None else Status.RUNNING
        case Kind.CLOSED:
            state.status = Status(data["outcome"])
        case _:
            raise ValueError(f"{event.kind} of no step")
    state.seq += 1


def _apply_to_step(state: TaskState, step: StepState, event: Event) -> None:
    data = event.data
    match event.kind:
        case Kind.STARTED:
            if step.attempts == 0:
                step.since = event.at
            step.attempts += 1
            step.at = At.SENT
            step.reached = True
            step.completed = state.seq
            # Several engines may carry it: what refuses one of them says nothing of what the others brought.
            step.doubt |= data.get("relay", False)
        case Kind.DONE:
            step.at, step.said = At.DONE, None
            step.result = data["result"]
            step.completed = state.seq
            if state.status is Status.WAITING:
                state.status, state.waiting = Status.RUNNING, None
        case Kind.SKIPPED:
            step.at = At.SKIPPED
        case Kind.REFUSED:
            step.reached = data["reached"] or step.doubt or step.attempts > 1
            step.at, step.said = At.REFUSED, data["reason"]
            step.retry_at = data.get("retry_at", AT_ONCE)
            if "retry_at" not in data:
                step.failed = data["reason"]
        case Kind.UNKNOWN:
            step.doubt, step.said = True, data["reason"]
            if "retry_at" in data:
                step.attempts += 1
                step.retry_at = data["retry_at"]
            else:
                step.failed = data["reason"]
        case Kind.UNDOING:
            step.at = At.UNDOING
            step.attempts, step.since, step.retry_at = 1, event.at, AT_ONCE
            step.tombstone = data["tombstone"]
        case Kind.UNDONE:
            step.at = At.UNDONE
        case Kind.UNDO_AGAIN:
            step.said = data["reason"]
            step.attempts += 1
            step.retry_at = data["retry_at"]
        case Kind.GAVE_UP:
            step.gave_up = data["reason"]
