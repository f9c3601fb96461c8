"""A log replayed: whether every decision in it is the one that the machine takes today.

What happened (outcomes, cancellations, claims) is taken from the log; what the machine decided (which step starts, when
the task turns, what is undone next, when it is over) is computed again and compared. A log of a live task replays in
the same way as one of the simulator: the machine knows no difference.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from gpve.tasks.events import Event, Kind
from gpve.tasks.flow import Flow
from gpve.tasks.machine import context, plan
from gpve.tasks.state import TaskState, apply

DECIDED = (Kind.SKIPPED, Kind.FAILED, Kind.STUCK, Kind.CLOSED)
SENT = {Kind.STARTED: "do", Kind.UNDOING: "undo"}


def divergences(flow: Flow, task: int, body: Any, events: Sequence[Event]) -> Iterator[str]:
    """Decisions in the log that the machine would not take; none if the flow is the one that wrote it."""
    state = TaskState()
    for at, event in enumerate(events):
        if event.kind in DECIDED or event.kind in SENT:
            told = _divergence(flow, task, body, state, event)
            if told is not None:
                yield f"event {at}: {event.kind} {event.step}: {told}"
        apply(state, event)


def _divergence(flow: Flow, task: int, body: Any, state: TaskState, event: Event) -> str | None:
    if event.kind is Kind.CLOSED and not state.began and state.cancel is not None:
        return None
    due = plan(flow, context(task, body, state), state, event.at)
    if event.kind in SENT:
        moves = [(move.step.name, move.direction) for move in due.moves if not move.recorded]
        if (event.step, SENT[event.kind]) in moves:
            return None
        return f"the machine would begin {moves or 'nothing'}"
    events = [(kind, step, data) for kind, step, data in due.events]
    if (event.kind, event.step, event.data) in events:
        return None
    return f"the machine would say {[(str(kind), step) for kind, step, _ in events] or 'nothing'}"
