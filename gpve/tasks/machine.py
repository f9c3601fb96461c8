"""What is next: the state machine of a task.

`plan` looks at the state alone and says which events to record, which commands to make, and when to look again. It does
not remember what it said before, so recovering a task is calling it on the folded log, and nothing else.
`observe` turns the outcome of a command into the event that the log gets.

Order of things. A step starts when all that it needs is done. When a step fails, when somebody cancels or when the
deadline passes, the task turns: every step that may have left something is undone, one at a time, the latest first.
From the moment at which the commit step is sent until its outcome is known the task neither turns nor goes on; after
it is done the task only goes forward. What runs out of time in a direction that cannot be left rests (`gave_up`), the
rest of the task goes on as far as it does not depend on it, and then the task is stuck until somebody resumes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from gpve.tasks.events import Event, Kind
from gpve.tasks.flow import Command, Context, Flow, Step
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown
from gpve.tasks.state import CLOSED, UNTOUCHED, At, Results, Status, StepState, TaskState

Direction = Literal["do", "undo"]
NEVER = float("inf")
OVER = frozenset((At.DONE, At.SKIPPED))


class Move(NamedTuple):
    """A command that is due. ``recorded``: the log already says that it may have been sent."""

    step: Step
    direction: Direction
    command: Command
    recorded: bool
    tombstone: bool = False
    """Nothing is there to be undone; only forbid what may still come."""


@dataclass
class Plan:
    """What is next: first the events, then the moves, then rest until ``wake_at``."""

    events: list[tuple[Kind, str, dict[str, Any]]] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    wake_at: float = NEVER


def context(task: int, body: Any, state: TaskState) -> Context:
    """What the functions of the steps see; it follows the results of ``state``."""
    return Context(task, state.target, body, state.facts, Results(state))


def committed(flow: Flow, state: TaskState) -> bool:
    """Whether the commit point is behind."""
    return flow.commit is not None and state.step(flow.commit).at is At.DONE


def in_doubt(flow: Flow, state: TaskState) -> bool:
    """Whether the commit step was sent and nobody knows its outcome."""
    return flow.commit is not None and state.step(flow.commit).at is At.SENT


def plan(flow: Flow, seen: Context, state: TaskState, now: float) -> Plan:
    """What is next at time ``now`` (the store's clock, seconds)."""
    if state.status in CLOSED or state.status is Status.STUCK or not state.began:
        return Plan()
    if state.failed is not None:
        return _backward(flow, seen, state, now)
    may_turn = not committed(flow, state) and not in_doubt(flow, state)
    reason = _reason_to_turn(flow, state, now) if may_turn else None
    if reason is not None:
        return Plan(events=[(Kind.FAILED, "", {"reason": reason})])
    return _forward(flow, seen, state, now, may_turn)


def _reason_to_turn(flow: Flow, state: TaskState, now: float) -> str | None:
    for step in flow.steps:
        at = state.steps.get(step.name)
        if at is not None and at.failed is not None:
            return f"{step.name}: {at.failed}"
    if state.cancel is not None:
        return f"cancelled: {state.cancel}"
    if now >= state.submitted_at + flow.deadline_s:
        return f"not committed within {flow.deadline_s:g} s"
    return None


def _forward(flow: Flow, seen: Context, state: TaskState, now: float, may_turn: bool) -> Plan:
    result = Plan()
    if may_turn:
        result.wake_at = state.submitted_at + flow.deadline_s
    over = {name for name, step in state.steps.items() if step.at in OVER}
    for step in flow.steps:
        if step.name in over:
            continue
        at = state.steps.get(step.name, UNTOUCHED)
        if at.gave_up is not None or not over.issuperset(flow.needs[step.name]):
            continue
        if step.only_if is not None and at.at is At.IDLE and not step.only_if(seen):
            result.events.append((Kind.SKIPPED, step.name, {}))
        elif at.retry_at > now:
            result.wake_at = min(result.wake_at, at.retry_at)
        else:
            result.moves.append(Move(step, "do", step.do(seen), recorded=at.at is At.SENT))
    if len(over) == len(flow.steps):
        return Plan(events=[(Kind.CLOSED, "", {"outcome": "done"})])
    if not result.events and not result.moves and result.wake_at == NEVER and _rests(flow, state):
        return Plan(events=[(Kind.STUCK, "", {})])
    return result


def _rests(flow: Flow, state: TaskState) -> bool:
    return any(state.step(step.name).gave_up is not None for step in flow.steps)


def _owed(flow: Flow, state: TaskState) -> list[Step]:
    """The steps whose undo is due, the latest first."""
    owed = []
    for step in flow.steps:
        at = state.step(step.name)
        if at.at in (At.SENT, At.DONE, At.UNDOING) or (at.at is At.REFUSED and at.reached):
            owed.append(step)
    return sorted(owed, key=lambda step: -state.step(step.name).completed)


def _backward(flow: Flow, seen: Context, state: TaskState, now: float) -> Plan:
    owed = _owed(flow, state)
    if not owed:
        return Plan(events=[(Kind.CLOSED, "", {"outcome": "undone"})])
    waiting = {step.name for step in owed}
    for step in owed:
        at = state.step(step.name)
        if at.gave_up is not None or _waits_for(flow, step, waiting):
            continue
        if at.retry_at > now and at.at is At.UNDOING:
            return Plan(wake_at=at.retry_at)
        # A commit step has no undo: the task only turns there when the node itself says that it did not happen.
        nothing_there = at.at is At.REFUSED and (not at.doubt or step.undo is None)
        tombstone = at.tombstone if at.at is At.UNDOING else nothing_there
        action = step.do if tombstone or step.undo is None else step.undo
        return Plan(moves=[Move(step, "undo", action(seen), at.at is At.UNDOING, tombstone)])
    return Plan(events=[(Kind.STUCK, "", {})])


def _waits_for(flow: Flow, step: Step, owed: set[str]) -> bool:
    """Whether something that needs this step is not undone yet."""
    return any(other in owed for other in flow.dependents[step.name])


def observe(
    flow: Flow,
    state: TaskState,
    name: str,
    direction: Direction,
    outcome: Outcome,
    now: float,
    draw: Callable[[], float],
) -> Event | None:
    """The event of an outcome; None if the state no longer waits for it. ``draw``: in [0, 1), spreads the retries."""
    step, at = flow.by_name[name], state.step(name)
    if direction == "undo":
        return _observe_undo(step, at, state, outcome, now, draw)
    if state.failed is not None or at.at not in (At.SENT, At.IDLE, At.REFUSED):
        return None
    match outcome:
        case Done(result):
            return Event(Kind.DONE, name, now, state.epoch, {"result": result})
        case Refused(reason, again, reached):
            data: dict[str, Any] = {"reason": reason, "reached": reached}
            kind = Kind.REFUSED
            last = not again or at.attempts >= step.retry.attempts
        case Unknown(reason):
            data, kind, last = {"reason": reason}, Kind.UNKNOWN, False
    late = at.attempts > 0 and now >= at.since + step.deadline_s
    only_forward = name in flow.after_commit or (step.commit and kind is Kind.UNKNOWN)
    if only_forward and late:
        return Event(Kind.GAVE_UP, name, now, state.epoch, data)
    if only_forward or not (last or late):
        data["retry_at"] = now + step.retry.wait_s(max(1, at.attempts), draw())
    return Event(kind, name, now, state.epoch, data)


def _observe_undo(
    step: Step, at: StepState, state: TaskState, outcome: Outcome, now: float, draw: Callable[[], float]
) -> Event | None:
    if at.at is At.UNDONE:
        return None
    if isinstance(outcome, Done):
        return Event(Kind.UNDONE, step.name, now, state.epoch, {})
    if now >= at.since + step.undo_deadline_s:
        return Event(Kind.GAVE_UP, step.name, now, state.epoch, {"reason": outcome.reason})
    retry_at = now + step.retry.wait_s(max(1, at.attempts), draw())
    return Event(Kind.UNDO_AGAIN, step.name, now, state.epoch, {"reason": outcome.reason, "retry_at": retry_at})
