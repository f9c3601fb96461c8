"""One transaction that drives a task as far as it goes without the world: record what came, then what is next.

Changes of the store are made in the transaction that records them, so several steps may pass in one; what has to be
sent is recorded (event and outbox row) and handed back, and is sent after the commit.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gpve.model.reasons import counted
from gpve.tasks.errors import Conflict, Fenced, Refuse
from gpve.tasks.events import Event, Kind, decode, encode, to_row
from gpve.tasks.flow import Context, Flow, InStore, OnNode, Place
from gpve.tasks.ledger import Key, Looks, Range, Row, Tx
from gpve.tasks.machine import OVER, Direction, Move, committed, context, in_doubt, observe, plan
from gpve.tasks.outcome import Done, Outcome, Refused
from gpve.tasks.records import VERBS, Decided, NoFit, claim
from gpve.tasks.state import CLOSED, At, Status, TaskState, apply

UNDER_WAY = frozenset((At.SENT, At.UNDOING))
DECISIONS = (Decided, NoFit)


class Operation(NamedTuple):
    """A command to a node. Its first three fields are its key. ``tombstone``: only forbid the forward direction."""

    task: int
    step: str
    direction: Direction
    node: str
    verb: str
    arguments: Mapping[str, Any]
    resource: str
    epoch: int
    tombstone: bool = False
    attempt_s: float = 60.0


class Question(NamedTuple):
    """A decision that the scheduler is asked for."""

    task: int
    step: str
    place: Place


class Observation(NamedTuple):
    """What came back for a step: an outcome of its command, or a decision for its question."""

    step: str
    direction: Direction
    outcome: Outcome | Decided | NoFit


@dataclass
class Advanced:
    """How far the task came."""

    state: TaskState
    operations: list[Operation] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    wake_at: float = float("inf")
    now: float = 0.0
    """The store's clock in that transaction."""
    freed: bool = False
    """The task is over, and its locks stood in somebody's way."""


@dataclass(frozen=True)
class Surroundings:
    """What an engine knows besides the task: the seed of its jitter, and which nodes it talks to itself."""

    seed: int = 0
    holds: Callable[[str], bool] = lambda node: True
    """Operations for other nodes are left in the outbox, for whoever talks to them."""


def draw(seed: int, task: int, seq: int) -> float:
    """In [0, 1), the same for the same (seed, task, position in its log): spreads retries."""
    digest = hashlib.blake2b(f"{seed}/{task}/{seq}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


class _Log:
    """Records events of one task in one transaction, and folds them."""

    def __init__(self, tx: Tx, task: int, state: TaskState) -> None:
        self.tx, self.task, self.state = tx, task, state

    def add(self, event: Event) -> None:
        self.tx.put("event", to_row(self.task, self.state.seq, event))
        apply(self.state, event)

    def say(self, kind: Kind, step: str, data: dict[str, Any]) -> None:
        self.add(Event(kind, step, self.tx.now, self.state.epoch, data))


def advance(
    tx: Tx,
    flow: Flow,
    row: Row,
    body: Any,
    before: TaskState,
    observations: Sequence[Observation] = (),
    *,
    taken: bool = False,
    around: Surroundings = Surroundings(),
) -> Advanced:
    """Record ``observations`` and all that follows from them.

    ``row``: the task's row as the caller knows it; its epoch says on whose behalf. ``taken``: this very transaction
    claimed the task, and what was sent before is to be sent anew under the new epoch. Raises `Fenced` if the task has
    another owner by now.
    """
    if not taken:
        row = _own(tx, row, before)
    task = row["id"]
    log = _Log(tx, task, before.copy())
    state = log.state
    if row["cancel"] is not None and not state.cancel_answered:
        _answer_cancel(log, flow, row["cancel"])
    decisions: dict[str, Decided | NoFit] = {}
    for observation in observations:
        if isinstance(observation.outcome, DECISIONS):
            decisions[observation.step] = observation.outcome
        else:
            _record(log, flow, observation.step, observation.direction, observation.outcome, around.seed)
    result = Advanced(state, now=tx.now)
    seen = context(task, body, state)
    while True:
        following = plan(flow, seen, state, tx.now)
        for kind, step, data in following.events:
            log.say(kind, step, data)
        if following.events:
            continue
        result.operations, result.questions, result.wake_at = [], [], following.wake_at
        moved = False
        for move in following.moves:
            moved |= _make(log, flow, move, result, decisions, taken, around)
        if not moved:
            break
        # Another step may be ready now; what was already recorded is not recorded twice.
        taken = False
    result.freed = _settle(tx, flow, row, state, seen)
    return result


def wants(flow: Flow, row: Row, body: Any, state: TaskState, observations: Sequence[Observation]) -> Looks:
    """What `advance` will probably read. The rest it asks for when it comes to it."""
    task: int = row["id"]
    rows: list[tuple[str, Key]] = [("task", (task,))]
    rows += [("node", (one.outcome.node,)) for one in observations if isinstance(one.outcome, Decided)]
    over = sum(step.at in OVER for step in state.steps.values())
    if over + len(observations) < len(flow.steps):
        return Looks(rows)
    ranges: list[Range] = [("lock", {"task": task}), ("outbox", {"task": task})]
    ranges += [("lock", in_the_way(lock.resource, lock.shared)) for lock in flow.locks(state.target, body)]
    if isinstance(state.target, int):
        rows.append(("guest", (state.target,)))
        ranges += [("volume", {"guest": state.target}), ("claim", {"guest": state.target})]
    return Looks(rows, ranges)


def in_the_way(resource: str, shared: bool) -> dict[str, Any]:
    """Which locks on a resource stand in the way of one there: shared ones, maybe thousands, not in each other's."""
    return {"resource": resource, "shared": False} if shared else {"resource": resource}


def _own(tx: Tx, known: Row, state: TaskState) -> Row:
    row = tx.get("task", known["id"])
    if row is None or row["epoch"] != known["epoch"] or row["owner"] != known["owner"] or row["seq"] != state.seq:
        raise Fenced(known["id"], known["epoch"])
    return row


def _answer_cancel(log: _Log, flow: Flow, reason: str) -> None:
    state = log.state
    data: dict[str, Any] = {"reason": reason}
    if committed(flow, state) or in_doubt(flow, state):
        data["refused"] = "the commit point is behind" if committed(flow, state) else "the commit point is under way"
    log.say(Kind.CANCEL, "", data)
    if not state.began:
        log.say(Kind.CLOSED, "", {"outcome": "undone"})


def _record(log: _Log, flow: Flow, step: str, direction: Direction, outcome: Outcome, seed: int) -> None:
    state = log.state
    event = observe(flow, state, step, direction, outcome, log.tx.now, lambda: draw(seed, log.task, state.seq))
    if event is None:
        return
    log.add(event)
    if event.kind in (Kind.DONE, Kind.UNDONE, Kind.REFUSED):
        log.tx.delete("outbox", log.task, step, direction)
        return
    row = log.tx.get("outbox", log.task, step, direction)
    if row is not None and row["outcome"] is not None:
        # Whoever carries it shall try again.
        log.tx.put("outbox", {**row, "outcome": None})


def _make(
    log: _Log,
    flow: Flow,
    move: Move,
    result: Advanced,
    decisions: dict[str, Decided | NoFit],
    taken: bool,
    around: Surroundings,
) -> bool:
    """Make a move; whether something was recorded that may change what is next."""
    name, command = move.step.name, move.command
    match command:
        case OnNode():
            operation = Operation(
                log.task,
                name,
                move.direction,
                command.node,
                command.verb,
                command.arguments,
                command.resource,
                log.state.epoch,
                move.tombstone,
                move.step.attempt_s if move.direction == "do" else move.step.undo_attempt_s,
            )
            held = around.holds(command.node)
            if not move.recorded:
                if move.direction == "do":
                    log.say(Kind.STARTED, name, {} if held else {"relay": True})
                else:
                    log.tx.delete("outbox", log.task, name, "do")
                    log.say(Kind.UNDOING, name, {"tombstone": move.tombstone})
            if not move.recorded or taken:
                log.tx.put("outbox", _outbox_row(operation, log.tx.now, relay=not held))
            elif not held:
                # The node may talk to another engine by now.
                sent = log.tx.get("outbox", log.task, name, move.direction)
                if sent is not None and not sent["relay"]:
                    log.tx.put("outbox", {**sent, "relay": True})
            result.operations.append(operation)
            return False
        case InStore():
            outcome: Outcome
            if move.tombstone:
                outcome = Done()
            else:
                try:
                    outcome = Done(VERBS[command.verb](log.tx, log.task, command.arguments))
                except Refuse as error:
                    outcome = Refused(error.reason, error.again, reached=False)
            _record(log, flow, name, move.direction, outcome, around.seed)
            return True
        case Place():
            return _place(log, flow, move, command, result, decisions.pop(name, None), around.seed)


def _place(
    log: _Log,
    flow: Flow,
    move: Move,
    place: Place,
    result: Advanced,
    decision: Decided | NoFit | None,
    seed: int,
) -> bool:
    name = move.step.name
    match decision:
        case Decided():
            try:
                outcome = Done(claim(log.tx, log.task, place.guest, place.spec, place.role, decision))
            except Conflict:
                result.questions.append(Question(log.task, name, place))
                return False
            _record(log, flow, name, "do", outcome, seed)
            return True
        case NoFit(reasons) if not move.step.waits:
            told = "; ".join(counted(reasons)) or "there is none to choose from"
            _record(log, flow, name, "do", Refused(f"no node fits: {told}", again=False, reached=False), seed)
            return True
        case NoFit(reasons) if log.state.waiting != dict(reasons):
            log.say(Kind.WAITING, name, {"reasons": dict(reasons)})
    result.questions.append(Question(log.task, name, place))
    return False


def _outbox_row(operation: Operation, now: float, relay: bool) -> Row:
    return {
        "task": operation.task,
        "step": operation.step,
        "direction": operation.direction,
        "node": operation.node,
        "resource": operation.resource,
        "epoch": operation.epoch,
        "verb": operation.verb,
        "arguments": encode({"tombstone": operation.tombstone, "arguments": dict(operation.arguments)}),
        "at": now,
        "relay": relay,
        "outcome": None,
    }


def operation_of(row: Row) -> Operation:
    """The operation of an outbox row."""
    carried = decode(row["arguments"])
    direction: Direction = "do" if row["direction"] == "do" else "undo"
    return Operation(
        row["task"],
        row["step"],
        direction,
        row["node"],
        row["verb"],
        carried["arguments"],
        row["resource"],
        row["epoch"],
        carried["tombstone"],
    )


def _settle(tx: Tx, flow: Flow, row: Row, state: TaskState, seen: Context) -> bool:
    """Bring the task's row up to its log, and close what is over; whether that freed a lock that others wait for."""
    freed = False
    over, under_way = 0, None
    for step in flow.steps:
        at = state.steps.get(step.name)
        if at is None:
            continue
        if at.at in OVER:
            over += 1
        elif under_way is None and at.at in UNDER_WAY:
            under_way = step.name
    after: Row = {
        **row,
        "status": str(state.status),
        "seq": state.seq,
        "committed": committed(flow, state),
        "step": under_way,
        "progress": max(row["progress"], over / (len(flow.steps) or 1)),
        "reason": _reason(flow, state),
    }
    if state.status is Status.STUCK:
        # Nobody owns it until an operator resumes it; its locks stay.
        after["owner"] = None
        rests = ((step.name, state.step(step.name).gave_up) for step in flow.steps)
        text = "; ".join(f"{name}: {why}" for name, why in rests if why is not None)
        tx.put("alarm", {"task": row["id"], "at": tx.now, "text": text})
    if state.status in CLOSED:
        after["owner"], after["closed_at"] = None, tx.now
        for lock in tx.where("lock", task=row["id"]):
            tx.delete("lock", lock["resource"], row["id"])
            freed |= bool(tx.where("lock", **in_the_way(lock["resource"], lock["shared"])))
        for sent in tx.where("outbox", task=row["id"]):
            tx.delete("outbox", row["id"], sent["step"], sent["direction"])
        tx.delete("alarm", row["id"])
        flow.close(tx, seen, state.status is Status.DONE)
    tx.put("task", after)
    return freed


def _reason(flow: Flow, state: TaskState) -> str | None:
    """Why it is undone, or what it waits for."""
    if state.failed is not None:
        return state.failed
    if state.waiting is not None:
        return "; ".join(counted(state.waiting)) or "there is no node yet"
    if state.status not in CLOSED:
        for step in flow.steps:
            at = state.steps.get(step.name)
            if at is not None and at.said is not None:
                return f"{step.name}: {at.said}"
    return None
