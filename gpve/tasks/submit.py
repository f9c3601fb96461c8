"""Submitting, cancelling and resuming tasks: what anybody may do to a task without owning it."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gpve.tasks.errors import BadBody, Forbidden, KeyReused, NotFound, UnknownFlow
from gpve.tasks.events import Event, Kind, encode, from_rows, to_row
from gpve.tasks.flow import Body, Flow, Flows
from gpve.tasks.ledger import Looks, Row, Tx, Work
from gpve.tasks.state import CLOSED, Status, TaskState, fold

KEY = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True)
class Request:
    """A wish for a task, checked against the schema of its flow. ``key``: the idempotency key, if any."""

    flow: Flow
    body: Body
    project: str = "default"
    actor: str = "root"
    key: str | None = None
    check: Callable[[Tx], None] | None = None
    """Raises what else forbids it, in the submitting transaction; not asked when the key was used before."""

    @property
    def digest(self) -> str:
        """Of the flow's name and the body: what a second use of the key must match."""
        text = self.flow.name + encode(self.body.model_dump(mode="json"))
        return hashlib.sha256(text.encode()).hexdigest()

    def looks_at(self) -> Looks:
        """What submitting will probably read."""
        rows, ranges = self.body.looks_at(self.project)
        used = [] if self.key is None else [("idempotency", (self.project, self.key))]
        return Looks([*rows, ("quota", (self.project,)), *used], ranges)


def request(
    flows: Flows,
    name: str,
    body: Mapping[str, Any],
    *,
    project: str = "default",
    actor: str = "root",
    key: str | None = None,
) -> Request:
    """Check a wish. Raises `UnknownFlow` or `BadBody`."""
    flow = flows.newest(name)
    if flow is None:
        raise UnknownFlow(name, flows.names)
    # Databases differ on blanks at the end of a key, and on its length.
    if key is not None and not KEY.fullmatch(key):
        raise BadBody(name, "idempotency key", f"{key!r} is not 1 to 128 printable ASCII characters without blanks")
    try:
        checked = flow.body.model_validate(dict(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise BadBody(name, where, first["msg"]) from None
    return Request(flow, checked, project, actor, key)


def submit(tx: Tx, wish: Request) -> Row:
    """Write the task with its idempotency key, quota, phase and locks; the row of the task, old or new.

    Raises `KeyReused`, and what `Flow.open` raises (`Forbidden`, `NotFound`, `OverQuota`).
    """
    digest = None if wish.key is None else wish.digest
    if wish.key is not None:
        used = tx.get("idempotency", wish.project, wish.key)
        if used is not None:
            if used["digest"] != digest:
                raise KeyReused(wish.key, used["task"])
            old = tx.get("task", used["task"])
            if old is None:
                raise NotFound("task", used["task"])
            return old
    if wish.check is not None:
        wish.check(tx)
    task = tx.take("task")
    flow = wish.flow
    target = flow.open(tx, wish, task).target
    row: Row = {
        "id": task,
        "project": wish.project,
        "actor": wish.actor,
        "flow": flow.name,
        "version": flow.version,
        "table_hash": flow.table_hash,
        "status": str(Status.QUEUED),
        "target": None if target is None else str(target),
        "body": encode(wish.body.model_dump(mode="json")),
        "seq": 1,
        "submitted_at": tx.now,
        "closed_at": None,
        "owner": None,
        "epoch": 0,
        "cancel": None,
        "committed": False,
        "step": None,
        "progress": 0.0,
        "reason": None,
        "poison": None,
    }
    tx.put("task", row)
    event = Event(Kind.SUBMITTED, "", tx.now, 0, {"target": target})
    tx.put("event", to_row(task, 0, event))
    for lock in flow.locks(target, wish.body):
        tx.put("lock", {"resource": lock.resource, "task": task, "shared": lock.shared})
    if wish.key is not None:
        tx.put("idempotency", {"project": wish.project, "key": wish.key, "task": task, "digest": digest})
    return row


def cancel(tx: Tx, task: int, reason: str) -> Row:
    """Ask for the end of a task; its owner turns it. Asking twice is asking once.

    Raises `NotFound`, or `Forbidden` once the task is over or its commit point is behind. Between the sending of the
    commit step and its outcome the wish is noted, and the log says what became of it.
    """
    row = _row(tx, task)
    if row["status"] in CLOSED:
        raise Forbidden(f"cancel task {task}", row["status"], ())
    if row["committed"]:
        raise Forbidden(f"cancel task {task}", "past its commit point", ("wait for its end",))
    if row["cancel"] is not None:
        return row
    row = {**row, "cancel": reason}
    tx.put("task", row)
    return row


def resume(tx: Tx, task: int) -> Row:
    """Give what was given up a new deadline (a stuck task), or have a log read again that could not be read.

    Raises `NotFound`, or `Forbidden` if the task is neither.
    """
    row = _row(tx, task)
    if row["poison"] is not None:
        row = {**row, "poison": None}
    elif row["status"] == Status.STUCK:
        event = Event(Kind.RESUMED, "", tx.now, row["epoch"], {})
        tx.put("event", to_row(task, row["seq"], event))
        # The log says which way it goes: one that gave up asking for the outcome of its commit step has not turned.
        state = logged(tx, task)
        row = {**row, "seq": state.seq, "status": str(state.status)}
    else:
        raise Forbidden(f"resume task {task}", row["status"], ("cancel it", "wait for its end"))
    tx.delete("alarm", task)
    tx.put("task", row)
    return row


def logged(tx: Tx, task: int) -> TaskState:
    """A task as its log says. Raises `CorruptLog`."""
    return fold(from_rows(task, tx.where("event", task=task)))


def _row(tx: Tx, task: int) -> Row:
    row = tx.get("task", task)
    if row is None:
        raise NotFound("task", task)
    return row


def submitting(wish: Request) -> Work:
    """`submit` as a piece of work."""
    return Work(lambda tx: submit(tx, wish), wish.looks_at)
