"""Attach a volume that belongs to no guest to a VM on the same node, whether it runs or not."""

from typing import Any

from gpve.tasks.errors import Forbidden
from gpve.tasks.flow import Command, Context, Flow, Opened, Step
from gpve.tasks.flows.free_volumes import Attachment, both, steady_volume
from gpve.tasks.flows.guests import announce, end, find, on, read
from gpve.tasks.ledger import Tx


def attach(vm: Context) -> Command:
    """It is a disk of the VM."""
    return on(vm, "volume.attach", volume=vm.body.volume)


def detach(vm: Context) -> Command:
    """It is of no guest."""
    return on(vm, "volume.detach", volume=vm.body.volume)


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    guest = find(tx, wish, "vm")
    announce(tx, guest, "volume-attach", task)
    volume = steady_volume(tx, wish.body.volume)
    what = f"attach volume {volume['id']!r} to vm {guest['id']}"
    if volume["guest"] is not None:
        raise Forbidden(what, f"attached to guest {volume['guest']}", ("volume_detach",))
    if volume["node"] != guest["node"]:
        raise Forbidden(what, f"on node {volume['node']}, the VM on {guest['node']}", ("a volume of that node",))
    tx.put("volume", {**volume, "task": task})
    return Opened(guest["id"])


def _close(tx: Tx, vm: Context, done: bool) -> None:
    volume = tx.get("volume", vm.body.volume)
    if volume is not None:
        tx.put("volume", {**volume, "guest": vm.target if done else None, "task": None})
    end("volume-attach")(tx, vm, done)


volume_attach = Flow(
    "volume_attach",
    version=1,
    body=Attachment,
    open=_open,
    locks=both,
    read=read,
    close=_close,
    steps=[Step("attach", attach, undo=detach)],
)
