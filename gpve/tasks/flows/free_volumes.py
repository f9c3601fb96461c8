"""What the flows of volumes share: the name, the row, the lock. A volume of no guest lies on the node of its pool."""

from typing import Annotated, Any

from pydantic import Field

from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.flow import Body, Command, Context, Lock, OnNode
from gpve.tasks.flows.guests import OnGuest, guest_lock
from gpve.tasks.ledger import Row, Tx

VolumeName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9.-]{0,62}[a-z0-9])?$")]
"""It begins with a letter; the volumes that come with a guest begin with its number."""


class OnVolume(Body):
    """``volume``: its name."""

    volume: VolumeName


class Attachment(OnGuest):
    """A VM and a volume."""

    volume: Annotated[str, Field(min_length=1, max_length=64)]


def volume_lock(volume: str) -> Lock:
    """The lock of a volume."""
    return Lock(f"volume/{volume}")


def locks(target: Any, body: OnVolume) -> list[Lock]:
    """The volume alone."""
    return [volume_lock(body.volume)]


def both(target: Any, body: Attachment) -> list[Lock]:
    """The guest and the volume."""
    return [guest_lock(body.guest), volume_lock(body.volume)]


def steady_volume(tx: Tx, volume: str) -> Row:
    """The row of a volume that no task works on. Raises `NotFound` or `Forbidden`."""
    row = tx.get("volume", volume)
    if row is None:
        raise NotFound("volume", volume)
    if row["task"] is not None:
        raise Forbidden(f"use volume {volume!r}", f"in the hands of task {row['task']}", ("wait for its end",))
    return row


def read(tx: Tx, target: str, body: Any) -> dict[str, Any]:
    """The facts: the volume's row."""
    return {"volume": tx.get("volume", target)}


def on_volume(seen: Context, verb: str) -> Command:
    """An operation on the volume alone, fenced by it."""
    row = seen.facts["volume"]
    volume = {"id": row["id"], "pool": row["pool"], "size_gib": row["size_gib"]}
    return OnNode(row["node"], verb, {"guest": None, "volumes": [volume]}, f"volume/{row['id']}")


def make(seen: Context) -> Command:
    """Make it."""
    return on_volume(seen, "volume.create")


def remove(seen: Context) -> Command:
    """Remove it."""
    return on_volume(seen, "volume.delete")
