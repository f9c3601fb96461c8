"""What the flows of guests share: the phase and the row at both ends of a task, quota, the facts, the locks."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Field

from gpve.model.phases import GONE, MOVES, allowed
from gpve.tasks.errors import Forbidden, NotFound, OverQuota
from gpve.tasks.events import decode
from gpve.tasks.flow import Body, Command, Context, InStore, Lock, OnNode, Opened, Place
from gpve.tasks.ledger import Row, Tx

GuestId = Annotated[int, Field(ge=1, le=1 << 53)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
Check = Callable[[Tx, Row, Any], None]
"""(tx, the guest's row, body): raises what forbids an operation that the phase would allow."""


class OnGuest(Body):
    """The body of most operations: the guest's id."""

    guest: GuestId


def guest_lock(guest: int) -> Lock:
    """The lock of a guest."""
    return Lock(f"guest/{guest}")


def only_guest(target: Any, body: Any) -> list[Lock]:
    """`Flow.locks` of most operations: the guest alone."""
    return [guest_lock(target)]


def on(seen: Context, verb: str, node: str | None = None, **arguments: Any) -> OnNode:
    """An operation on the guest's node (or another), fenced by the guest."""
    return OnNode(node or seen.node, verb, {"guest": seen.target, **arguments}, f"guest/{seen.target}")


def release(seen: Context, node: str) -> Command:
    """Give back what the guest claims on a node."""
    return InStore("release", {"guest": seen.target, "node": node})


def find_place(seen: Context, role: str, only: str | None = None, never: tuple[str, ...] = ()) -> Command:
    """Find a node for the guest, and claim there what it needs."""
    guest = seen.facts["guest"]
    return Place(int(seen.target or 0), spec(seen), role, only, never, guest["kind"], guest["project"])


def unplace(seen: Context) -> Command:
    """Give back what this task's step ``place`` claimed."""
    return release(seen, seen.results["place"]["node"])


def leave(seen: Context) -> Command:
    """Give back what the guest claims where it is."""
    return release(seen, seen.node)


def spec(seen: Context) -> Mapping[str, Any]:
    """What the guest is made of, as its row says."""
    found: Mapping[str, Any] = seen.facts["guest"]["spec"]
    return found


def volumes(seen: Context) -> list[dict[str, Any]]:
    """The guest's volumes: id, pool, size_gib."""
    found: list[dict[str, Any]] = seen.facts["volumes"]
    return found


def ports(seen: Context) -> list[dict[str, Any]]:
    """The guest's ports: network, mac."""
    found: list[dict[str, Any]] = seen.facts["ports"]
    return found


def was(seen: Context, phase: str) -> bool:
    """Whether the guest was in this phase when the task was submitted."""
    return bool(seen.facts["guest"]["phase_before"] == phase)


def read(tx: Tx, target: int, body: Any) -> dict[str, Any]:
    """The facts: the guest's row with its spec read, its volumes and its ports."""
    guest = tx.get("guest", target)
    if guest is None:
        raise NotFound("guest", target)
    volume_rows = tx.where("volume", guest=target)
    return {
        "guest": {**guest, "spec": decode(guest["spec"])},
        "volumes": [{"id": v["id"], "pool": v["pool"], "size_gib": v["size_gib"]} for v in volume_rows],
        "ports": [{"network": p["network"], "mac": p["mac"]} for p in tx.where("port", guest=target)],
    }


def no_use(project: str) -> Row:
    """The quota of a project that uses nothing and has no limits."""
    row: Row = {"project": project, "guests": 0, "cpu_milli": 0, "memory_mib": 0}
    return row | {"guests_limit": None, "cpu_milli_limit": None, "memory_mib_limit": None}


def charge(tx: Tx, project: str, amounts: Mapping[str, int], sign: int) -> None:
    """Add to what a project uses (+1) or take from it (-1). Raises `OverQuota`."""
    row = tx.get("quota", project) or no_use(project)
    after = dict(row)
    for resource in ("guests", "cpu_milli", "memory_mib"):
        amount, limit = amounts.get(resource, 0), row[f"{resource}_limit"]
        if sign > 0 and amount > 0 and limit is not None and row[resource] + amount > limit:
            raise OverQuota(project, resource, row[resource], amount, limit)
        after[resource] = row[resource] + sign * amount
    tx.put("quota", after)


def charged_for(spec_of_guest: Mapping[str, Any]) -> dict[str, int]:
    """What a guest counts for in its project's quota."""
    return {"guests": 1, "cpu_milli": spec_of_guest["cpu_milli"], "memory_mib": spec_of_guest["memory_mib"]}


def find(tx: Tx, wish: Any, kind: str | None) -> Row:
    """The guest that a wish is about, of this kind (None: any). Raises `NotFound`."""
    guest = tx.get("guest", wish.body.guest)
    if guest is None or guest["project"] != wish.project or kind not in (None, guest["kind"]):
        raise NotFound(kind or "guest", wish.body.guest)
    return guest


def announce(tx: Tx, guest: Row, operation: str, task: int) -> Row:
    """The guest's row, which names the task and its phase from now on.

    Raises `Forbidden` if its phase does not allow the operation; the error says what it allows.
    """
    kind, phase = guest["kind"], guest["phase"]
    move = MOVES[kind][operation]
    if phase not in move.before:
        wish, holder = f"{operation} {kind} {guest['id']}", guest["task"]
        if holder is None:
            raise Forbidden(wish, phase, allowed(kind, phase))
        raise Forbidden(wish, f"{phase} (task {holder})", (f"cancel task {holder}", "wait for its end"))
    row = {**guest, "phase": move.during, "phase_before": phase, "task": task}
    tx.put("guest", row)
    return row


def begin(kind: str | None, operation: str, check: Check | None = None) -> Callable[[Tx, Any, int], Opened]:
    """`Flow.open` of an operation on a guest that is there: its phase says so, or forbids it."""

    def open_(tx: Tx, wish: Any, task: int) -> Opened:
        guest = find(tx, wish, kind)
        announce(tx, guest, operation, task)
        if check is not None:
            check(tx, guest, wish.body)
        return Opened(guest["id"])

    return open_


def steady(tx: Tx, guest: Row, operation: str, done: bool) -> Row:
    """The guest's row as it is when an operation is over; ``phase`` is `GONE` if there is none any more."""
    before = guest["phase_before"]
    phase = MOVES[guest["kind"]][operation].done(before) if done else before
    return {**guest, "phase": phase, "phase_before": None, "task": None}


def end(operation: str, after: Callable[[Tx, Context, Row], Row] | None = None) -> Callable[[Tx, Context, bool], None]:
    """`Flow.close` of an operation on a guest that is there.

    ``after``: what else changes in its row when it is done.
    """

    def close(tx: Tx, seen: Context, done: bool) -> None:
        guest = tx.get("guest", seen.target)
        if guest is None:
            return
        row = steady(tx, guest, operation, done)
        if done and after is not None:
            row = after(tx, seen, row)
        if row["phase"] == GONE:
            forget(tx, row)
            return
        for claim in tx.where("claim", guest=guest["id"]):
            tx.put("claim", {**claim, "task": None})
        tx.put("guest", row)

    return close


def forget(tx: Tx, guest: Row) -> None:
    """Remove a guest's rows and what it counts for."""
    for port in tx.where("port", guest=guest["id"]):
        tx.delete("port", guest["id"], port["network"])
    for volume in tx.where("volume", guest=guest["id"]):
        tx.delete("volume", volume["id"])
    tx.delete("guest", guest["id"])
    charge(tx, guest["project"], charged_for(decode(guest["spec"])), -1)
