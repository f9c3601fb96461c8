"""The log of a task: what happened, in order. It is the truth; everything else about a task is a fold over it."""

from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from gpve.tasks.errors import CorruptLog
from gpve.tasks.ledger import Row


class Kind(StrEnum):
    """What an event says. ``step`` is empty where none is concerned."""

    SUBMITTED = "submitted"
    """data: target."""
    CLAIMED = "claimed"
    """An engine took the task; data: engine. The event's epoch is the new one."""
    BEGAN = "began"
    """All locks are held; data: facts."""
    STARTED = "started"
    """A command of a step is about to be sent. Written before it is."""
    DONE = "done"
    """data: result."""
    SKIPPED = "skipped"
    """The step's condition does not hold."""
    REFUSED = "refused"
    """data: reason, reached, and retry_at unless it was the last attempt."""
    UNKNOWN = "unknown"
    """data: reason, and retry_at unless it was the last attempt."""
    WAITING = "waiting"
    """No node fits now; data: reasons."""
    CANCEL = "cancel"
    """Somebody asked for an end; data: reason, refused (why it is too late) or absent."""
    FAILED = "failed"
    """From here on the task is undone; data: reason."""
    UNDOING = "undoing"
    """The undo command of a step is about to be sent."""
    UNDONE = "undone"
    UNDO_AGAIN = "undo_again"
    """An attempt to undo did not succeed; data: reason, retry_at."""
    GAVE_UP = "gave_up"
    """An undo, or a step after the commit point, ran out of time; data: reason."""
    STUCK = "stuck"
    """Nothing is left to do but what was given up."""
    RESUMED = "resumed"
    """An operator gave what was given up a new deadline."""
    CLOSED = "closed"
    """data: outcome (done or undone)."""


class Event(NamedTuple):
    """One line of a log. ``at``: the store's clock, seconds."""

    kind: Kind
    step: str
    at: float
    epoch: int
    data: dict[str, Any]


def encode(value: Any) -> str:
    """JSON as the store keeps it: sorted keys, no spaces, so that equal values are equal bytes."""
    return "{}" if value == {} else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


decode = orjson.loads
"""What `encode` wrote."""


def to_row(task: int, seq: int, event: Event) -> Row:
    """The row of an event; its revision is given when it is written."""
    return {
        "task": task,
        "seq": seq,
        "kind": str(event.kind),
        "step": event.step,
        "at": event.at,
        "epoch": event.epoch,
        "data": encode(event.data),
    }


def from_rows(task: int, rows: list[Row]) -> list[Event]:
    """The events of a task, from its rows in order. Raises `CorruptLog` for a gap, an unknown kind or broken data."""
    events = []
    for at, row in enumerate(rows):
        if row["seq"] != at:
            raise CorruptLog(task, f"event {at} is missing")
        try:
            data = decode(row["data"])
            events.append(Event(Kind(row["kind"]), row["step"], row["at"], row["epoch"], data))
        except ValueError as error:
            raise CorruptLog(task, f"event {at}: {error}") from error
        if not isinstance(data, dict):
            raise CorruptLog(task, f"event {at}: data is no object")
    return events
