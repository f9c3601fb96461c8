"""Resize a guest: other amounts of CPU and memory, where it is. While it is resized it claims the larger of both.

The claim comes first, compared with what its node has left as the store knows it, so nothing is overcommitted; the same
write gives the node's row a new version, so that no decision on the older one stands. Quota goes the same way.
"""

from functools import partial
from typing import Any

from pydantic import Field

from gpve.tasks.errors import Forbidden
from gpve.tasks.events import decode, encode
from gpve.tasks.flow import Command, Context, Flow, InStore, Opened, Step
from gpve.tasks.flows.create import Amount
from gpve.tasks.flows.guests import OnGuest, announce, charge, end, find, on, only_guest, read, spec
from gpve.tasks.ledger import Tx

AMOUNTS = ("cpu_milli", "memory_mib")


class Resize(OnGuest):
    """What a guest shall have."""

    cpu_milli: Amount | None = Field(default=None, description="1000 is a core; null: as it is.")
    memory_mib: Amount | None = Field(default=None, description="MiB; null: as it is.")


def _old(guest: Context) -> dict[str, int]:
    found: dict[str, int] = spec(guest)["resized_from"]
    return found


def _new(guest: Context) -> dict[str, int]:
    return {name: getattr(guest.body, name) or _old(guest)[name] for name in AMOUNTS}


def _claim(guest: Context, amounts: dict[str, int]) -> Command:
    return InStore("reclaim", {"guest": guest.target, "node": guest.node, **amounts})


def claim(guest: Context) -> Command:
    """The larger of what it has and what it shall have."""
    return _claim(guest, {name: spec(guest)[name] for name in AMOUNTS})


def unclaim(guest: Context) -> Command:
    """What it had."""
    return _claim(guest, _old(guest))


def settle(guest: Context) -> Command:
    """It claims what it has now."""
    return _claim(guest, _new(guest))


def _open(kind: str, tx: Tx, wish: Any, task: int) -> Opened:
    guest, body = find(tx, wish, kind), wish.body
    row = announce(tx, guest, "resize", task)
    old = decode(guest["spec"])
    larger = {name: max(old[name], getattr(body, name) or 0) for name in AMOUNTS}
    if all(getattr(body, name) in (None, old[name]) for name in AMOUNTS):
        raise Forbidden(f"resize {kind} {guest['id']}", "of this size", ("another cpu_milli or memory_mib",))
    charge(tx, guest["project"], {name: larger[name] - old[name] for name in AMOUNTS}, +1)
    now = {**old, **larger, "resized_from": {name: old[name] for name in AMOUNTS}}
    tx.put("guest", {**row, "spec": encode(now)})
    return Opened(guest["id"])


def _close(tx: Tx, resized: Context, done: bool) -> None:
    guest = tx.get("guest", resized.target)
    if guest is not None:
        largest = decode(guest["spec"])
        old = largest.pop("resized_from")
        final = {name: (done and getattr(resized.body, name)) or old[name] for name in AMOUNTS}
        charge(tx, guest["project"], {name: largest[name] - final[name] for name in AMOUNTS}, -1)
        tx.put("guest", {**guest, "spec": encode({**largest, **final})})
    end("resize")(tx, resized, done)


def resizing(kind: str, body: type[Resize]) -> Flow:
    """The flow ``kind_resize``: its node is told between the claim of the larger amounts and that of the new ones."""

    def resize(guest: Context) -> Command:
        return on(guest, f"{kind}.resize", spec=_new(guest))

    def unresize(guest: Context) -> Command:
        return on(guest, f"{kind}.resize", spec=_old(guest))

    return Flow(
        f"{kind}_resize",
        version=1,
        body=body,
        open=partial(_open, kind),
        locks=only_guest,
        read=read,
        close=_close,
        steps=[
            Step("claim", claim, undo=unclaim),
            Step("resize", resize, undo=unresize),
            Step("settle", settle, commit=True),
        ],
    )
