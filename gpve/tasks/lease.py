"""Who owns a task: leases of engines, epochs of tasks, and the one way of claiming work, which is also recovery.

An engine is one incarnation of a process with a lease on the store's clock. A task may be claimed when nobody owns it
or when its owner's lease has run out; the claim gives it a new epoch from one counter of the whole store. Every write
for a task compares its epoch, so an owner that was only slow finds itself fenced.
"""

from typing import Any, NamedTuple

from gpve.tasks.advance import Advanced, Surroundings, advance, in_the_way
from gpve.tasks.errors import CorruptLog
from gpve.tasks.events import Event, Kind, decode, encode, from_rows, to_row
from gpve.tasks.flow import Flow, Flows
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.state import CLOSED, Status, apply, fold
from gpve.tasks.submit import Request


class Taken(NamedTuple):
    """A task that was claimed, and how far its first transaction took it."""

    row: Row
    flow: Flow
    body: Any
    advanced: Advanced


def beat(tx: Tx, incarnation: str, name: str, lease_s: float) -> bool:
    """Renew the lease of an engine (or give it its first); False if it had run out: others may own its tasks by now."""
    row = tx.get("engine", incarnation)
    alive = row is None or row["lease_until"] > tx.now
    started = tx.now if row is None else row["started"]
    tx.put("engine", {"incarnation": incarnation, "name": name, "started": started, "lease_until": tx.now + lease_s})
    return alive


def leave(tx: Tx, incarnation: str) -> None:
    """End a lease now: what the engine owned is free at once."""
    tx.delete("engine", incarnation)


def free(tx: Tx, row: Row, me: str) -> bool:
    """Whether ``me`` may claim the task of ``row``: it is open, nobody alive owns it, and it holds all its locks."""
    if row["status"] in CLOSED or row["status"] == Status.STUCK or row["poison"] is not None:
        return False
    if row["owner"] == me:
        return False
    if row["owner"] is not None:
        owner = tx.get("engine", row["owner"])
        if owner is not None and owner["lease_until"] > tx.now:
            return False
    return row["status"] != Status.QUEUED or row["cancel"] is not None or holds_all(tx, row["id"])


def holds_all(tx: Tx, task: int) -> bool:
    """Whether all locks of a task are its own: no task before it (they are numbered as submitted) stands in its way."""
    for mine in tx.where("lock", task=task):
        if any(other["task"] < task for other in tx.where("lock", **in_the_way(mine["resource"], mine["shared"]))):
            return False
    return True


def take(tx: Tx, flows: Flows, task: int, me: str, around: Surroundings) -> Taken | None:
    """Claim a task and go on with it; None if it is not to be had (any more), or of a flow unknown here.

    Raises `CorruptLog`; then nothing is written, and `poison` keeps it from being tried for ever.
    """
    row = tx.get("task", task)
    if row is None or not free(tx, row, me):
        return None
    flow = flows.of(row)
    if flow is None:
        return None
    try:
        body = flow.body.model_validate_json(row["body"], strict=False)
    except ValueError as error:
        raise CorruptLog(task, f"body: {error}") from error
    return _claim(tx, flow, row, body, tx.where("event", task=task), me, around)


def take_new(tx: Tx, wish: Request, row: Row, me: str, around: Surroundings) -> Taken | None:
    """Claim the task that this very transaction has submitted, and go on with it; None if its locks are not free."""
    first = tx.get("event", row["id"], 0)
    if first is None or not holds_all(tx, row["id"]):
        return None
    return _claim(tx, wish.flow, row, wish.body, [first], me, around)


def _claim(tx: Tx, flow: Flow, row: Row, body: Any, log: list[Row], me: str, around: Surroundings) -> Taken:
    task = row["id"]
    events = from_rows(task, log)
    if len(events) != row["seq"]:
        raise CorruptLog(task, f"{row['seq']} events expected, {len(events)} found")
    try:
        state = fold(events)
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptLog(task, f"{type(error).__name__}: {error}") from error
    epoch = tx.take("epoch")
    new = [Event(Kind.CLAIMED, "", tx.now, epoch, {"engine": me})]
    if not state.began and (row["cancel"] is None or holds_all(tx, task)):
        # Nobody but a task that is cancelled is claimed before it holds its locks.
        facts = flow.read(tx, state.target, body)
        new.append(Event(Kind.BEGAN, "", tx.now, epoch, {"facts": decode(encode(facts))}))
    for event in new:
        tx.put("event", to_row(task, state.seq, event))
        apply(state, event)
    row = {**row, "owner": me, "epoch": epoch, "seq": state.seq}
    advanced = advance(tx, flow, row, body, state, taken=True, around=around)
    return Taken(row, flow, body, advanced)


def poison(tx: Tx, task: int, me: str, problem: str) -> None:
    """Set a task aside that cannot be read or driven: a dead letter with an alarm; nothing of its log is altered."""
    row = tx.get("task", task)
    # Whoever found it may have been about to take it over from an engine that died.
    if row is None or not (row["owner"] == me or free(tx, row, me)):
        return
    tx.put("task", {**row, "poison": problem, "owner": None})
    tx.put("alarm", {"task": task, "at": tx.now, "text": problem})
