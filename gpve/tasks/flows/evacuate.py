"""Emptying a node: which guests leave it, which cannot and why, and the change of the store that sends them away."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpve.model.kinds import KINDS, real, tolerated
from gpve.model.phases import MOVES, STEADY
from gpve.tasks.claims import charged, overdrawn
from gpve.tasks.events import decode, encode
from gpve.tasks.flows.vm_migrate import VmMigrate, vm_migrate
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.state import CLOSED
from gpve.tasks.submit import Request, cancel, submit

TOLD = 8
"""Guests that are told by name of those that keep a node from being emptied."""
TRIES = 3
"""How often a guest's migration is tried in one drain."""


@dataclass(frozen=True)
class Blocker:
    """A guest that keeps a node from being emptied, and why."""

    guest: int
    kind: str
    phase: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.guest} ({self.phase}): {self.reason}"


def blockers(tx: Tx, node: str) -> list[Blocker]:
    """The dry run of a drain: the guests that would stay, in order of their numbers. It changes nothing.

    Room is tried first-fit, the largest first, over the rows as they are: a guess that the scheduler may better.
    """
    rows = tx.where("node")
    taints = {row["name"]: frozenset(decode(row["taints"])) for row in rows}
    borne = {kind: tolerated(kind, real(kind, taints.values())) for kind in KINDS}
    others = {row["name"]: row for row in rows if row["name"] != node and row["open"] and row["alive"]}
    found, moving = [], []
    for guest, claim in _on(tx, node):
        reason = _unmovable(guest)
        if reason is not None:
            found.append(_blocker(guest, reason))
        else:
            moving.append((guest, claim))
    for guest, claim in sorted(moving, key=lambda pair: (-pair[1]["cpu_milli"], -pair[1]["memory_mib"])):
        ours = (row for row in others.values() if taints[row["name"]] <= borne[guest["kind"]])
        tried = (_moved_to(row, guest, claim) for row in ours)
        home = next((row for row in tried if row is not None), None)
        if home is None:
            found.append(_blocker(guest, f"none of {len(others)} open nodes has room beside the others that move"))
        else:
            others[home["name"]] = home
    return sorted(found, key=lambda blocker: blocker.guest)


def evacuate(tx: Tx, task: int, arguments: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Send away what can go now, and say what keeps the node from being empty; None: it is empty.

    The answer: why, and whether it may pass. It may be repeated: a guest has one migration at a time, under an
    idempotency key of the drain. What was submitted stays whatever the answer: those are tasks of their own.
    """
    left, hopeless = [], []
    for guest, _ in _on(tx, arguments["node"]):
        reason, last = _send(tx, task, guest)
        left.append(_blocker(guest, reason))
        if last:
            hopeless.append(left[-1])
    if not left:
        return None
    first = [*hopeless, *(blocker for blocker in left if blocker not in hopeless)]
    more = f"; and {len(left) - TOLD} more" if len(left) > TOLD else ""
    return "; ".join(map(str, first[:TOLD])) + more, not hopeless


def recall(tx: Tx, task: int, node: str) -> None:
    """Cancel the migrations of a drain that are not past their commit point."""
    for guest, _ in _on(tx, node):
        for child in _tries(tx, task, guest):
            if child["status"] not in CLOSED and not child["committed"]:
                cancel(tx, child["id"], f"the drain, task {task}, was aborted")


def _on(tx: Tx, node: str) -> Iterator[tuple[Row, Row]]:
    """Guests that claim something of a node, with their claims."""
    for claim in tx.where("claim", node=node):
        guest = tx.get("guest", claim["guest"])
        if guest is not None:
            yield guest, claim


def _blocker(guest: Row, reason: str) -> Blocker:
    return Blocker(guest["id"], guest["kind"], guest["phase"], reason)


def _unmovable(guest: Row) -> str | None:
    kind, phase = guest["kind"], guest["phase"]
    if "migrate" not in MOVES[kind]:
        leaving = "stop it (its workspace stays here)" if kind == "agent" else "clone it elsewhere and delete it"
        return f"no migration of this kind: {leaving}"
    if phase in STEADY[kind] and phase not in MOVES[kind]["migrate"].before:
        return "resume or stop it first"
    return None


def _send(tx: Tx, task: int, guest: Row) -> tuple[str, bool]:
    """Submit the guest's migration if that is possible now; what is to be said of it, and whether that is the last."""
    reason = _unmovable(guest)
    if reason is not None:
        return reason, False
    if guest["task"] is not None:
        return f"task {guest['task']} is at work on it", False
    tried = _tries(tx, task, guest)
    if len(tried) >= TRIES:
        return f"{TRIES} migrations failed, the last: {tried[-1]['reason']}", True
    drain = tx.get("task", task)
    actor = drain["actor"] if drain is not None else "root"
    key = _key(task, guest["id"], len(tried))
    child = submit(tx, Request(vm_migrate, VmMigrate(guest=guest["id"]), guest["project"], actor, key))
    return f"task {child['id']} moves it", False


def _key(task: int, guest: int, attempt: int) -> str:
    return f"drain/{task}/{guest}/{attempt}"


def _tries(tx: Tx, task: int, guest: Row) -> list[Row]:
    """The migrations of a guest that a drain submitted, the oldest first."""
    found = []
    for attempt in range(TRIES):
        used = tx.get("idempotency", guest["project"], _key(task, guest["id"], attempt))
        child = tx.get("task", used["task"]) if used is not None else None
        if child is not None:
            found.append(child)
    return found


def _moved_to(node: Row, guest: Row, claim: Row) -> Row | None:
    """The node's row as it would be with one more guest; None: that does not fit."""
    spec = decode(guest["spec"])
    devices = _devices(node, spec)
    if len(devices) < spec["gpu_count"]:
        return None
    after = charged(node, {**claim, "devices": encode({str(device): spec["gpu_milli"] for device in devices})}, +1)
    return None if overdrawn(after) else after


def _devices(node: Row, spec: Mapping[str, Any]) -> list[int]:
    """The first devices with enough left, as many as asked for."""
    each = zip(decode(node["gpus"]), decode(node["used_gpu_milli"]), strict=True)
    free = [at for at, (milli, used) in enumerate(each) if milli - used >= max(1, spec["gpu_milli"])]
    return free[: spec["gpu_count"]]
