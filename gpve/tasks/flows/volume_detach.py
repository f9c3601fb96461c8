"""Detach a volume from its VM. It stays on its node, with its data, and belongs to no guest."""

from typing import Any

from gpve.tasks.errors import Forbidden
from gpve.tasks.flow import Context, Flow, Opened, Step
from gpve.tasks.flows.free_volumes import Attachment, both, steady_volume
from gpve.tasks.flows.guests import announce, end, find, read
from gpve.tasks.flows.volume_attach import attach, detach
from gpve.tasks.ledger import Tx


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    guest = find(tx, wish, "vm")
    announce(tx, guest, "volume-detach", task)
    volume = steady_volume(tx, wish.body.volume)
    if volume["guest"] != guest["id"]:
        owner = "free" if volume["guest"] is None else f"attached to guest {volume['guest']}"
        mine = [row["id"] for row in tx.where("volume", guest=guest["id"])]
        raise Forbidden(
            f"detach volume {volume['id']!r} from vm {guest['id']}", owner, tuple(f"detach {v}" for v in mine)
        )
    tx.put("volume", {**volume, "task": task})
    return Opened(guest["id"])


def _close(tx: Tx, vm: Context, done: bool) -> None:
    volume = tx.get("volume", vm.body.volume)
    if volume is not None:
        tx.put("volume", {**volume, "guest": None if done else vm.target, "task": None})
    end("volume-detach")(tx, vm, done)


volume_detach = Flow(
    "volume_detach",
    version=1,
    body=Attachment,
    open=_open,
    locks=both,
    read=read,
    close=_close,
    steps=[Step("detach", detach, undo=attach)],
)
