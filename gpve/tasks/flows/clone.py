"""What cloning a guest shares: a new guest like another, with its own number, name, addresses and copies of volumes.

The source's volumes are held as they are at one moment, copied from there to wherever the clone fits, and let go. Both
guests are locked and in a transitional phase meanwhile; the task is about the clone.
"""

from collections.abc import Callable
from typing import Any

from pydantic import Field

from gpve.tasks.events import decode
from gpve.tasks.flow import Command, Context, Lock, OnNode, Opened
from gpve.tasks.flows import guests
from gpve.tasks.flows.create import Disk, NodeName, register, settle
from gpve.tasks.flows.guests import Name, OnGuest, guest_lock, on, volumes
from gpve.tasks.ledger import Row, Tx


class Clone(OnGuest):
    """A guest like another (``guest``, the source). The clone is left stopped."""

    name: Name = Field(description="The clone's: no other guest of the project has it.")
    node: NodeName | None = Field(default=None, description="The one node that will do; null: the scheduler's choice.")


def open_(kind: str) -> Callable[[Tx, Any, int], Opened]:
    """`Flow.open`: the source says that it is cloned, the clone that it is created."""

    def announce(tx: Tx, wish: Any, task: int) -> Opened:
        source = guests.find(tx, wish, kind)
        guests.announce(tx, source, "clone", task)
        made_of = decode(source["spec"])
        # The clone's volumes are as the source's are now; what they were before stays with the source.
        made_of.pop("snapshots", None)
        disks = [Disk(pool=v["pool"], size_gib=v["size_gib"]) for v in _volumes(tx, source)]
        networks = [port["network"] for port in tx.where("port", guest=source["id"])]
        return Opened(register(tx, kind, wish, task, made_of, disks, networks))

    return announce


def _volumes(tx: Tx, guest: Row) -> list[Row]:
    return tx.where("volume", guest=guest["id"])


def locks(target: Any, body: Any) -> list[Lock]:
    """The clone and the source."""
    return [guest_lock(target), guest_lock(body.guest)]


def read(tx: Tx, target: int, body: Any) -> dict[str, Any]:
    """The facts of the clone, and the source's node and volumes."""
    source = tx.get("guest", body.guest)
    found = [volume["id"] for volume in tx.where("volume", guest=body.guest)]
    return {
        **guests.read(tx, target, body),
        "source": {"guest": body.guest, "node": source and source["node"], "volumes": found},
    }


def close(tx: Tx, seen: Context, done: bool) -> None:
    """`Flow.close`: the clone is there, or gone; the source is as before."""
    settle(tx, seen, done, "stopped")
    source = tx.get("guest", seen.body.guest)
    if source is not None:
        tx.put("guest", guests.steady(tx, source, "clone", done))


def _on_source(seen: Context, verb: str) -> Command:
    source = seen.facts["source"]
    arguments = {"guest": source["guest"], "name": f"clone-{seen.target}"}
    return OnNode(source["node"], verb, arguments, f"guest/{source['guest']}")


def hold(seen: Context) -> Command:
    """The source's volumes, as they are at one moment."""
    return _on_source(seen, "volume.hold")


def let_go(seen: Context) -> Command:
    """What was held is of no use any more."""
    return _on_source(seen, "volume.let-go")


def copy(seen: Context) -> Command:
    """The clone's volumes, filled with what is held."""
    return on(seen, "volume.copy", volumes=volumes(seen), source=dict(seen.facts["source"]))
