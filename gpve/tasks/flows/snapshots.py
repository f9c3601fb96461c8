"""Snapshots of guests of any kind (an agent's are called checkpoints): their names stand in the guest's spec."""

from typing import Any

from pydantic import Field

from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.events import decode, encode
from gpve.tasks.flow import Context
from gpve.tasks.flows.guests import Name, OnGuest
from gpve.tasks.ledger import Row, Tx

MOST = 32
"""Snapshots of one guest."""


class Snapshot(OnGuest):
    """A snapshot of a guest (of an agent: a checkpoint)."""

    name: Name = Field(description="No other snapshot of the guest has it.")


def names(guest: Row) -> list[str]:
    """The guest's snapshots, the oldest first."""
    found: list[str] = decode(guest["spec"]).get("snapshots", [])
    return found


def fresh(tx: Tx, guest: Row, body: Any) -> None:
    """Raise unless one of this name may be taken."""
    there, what = names(guest), f"take {body.name!r} of {guest['kind']} {guest['id']}"
    if guest["node"] is None:
        raise Forbidden(what, "nowhere yet: it never ran", ("start",))
    if body.name in there:
        raise Forbidden(what, "the name of a snapshot that it has", ("another name",))
    if len(there) >= MOST:
        raise Forbidden(what, f"at {MOST} snapshots, the most", ("delete",))


def known(tx: Tx, guest: Row, body: Any) -> None:
    """Raise unless the guest has one of this name."""
    there = names(guest)
    if body.name not in there:
        raise NotFound(f"snapshot of {guest['kind']} {guest['id']} (it has {', '.join(there) or 'none'}):", body.name)


def noted(tx: Tx, seen: Context, guest: Row) -> Row:
    """The row of a guest that has one more."""
    spec = decode(guest["spec"])
    return {**guest, "spec": encode({**spec, "snapshots": [*spec.get("snapshots", []), seen.body.name]})}
