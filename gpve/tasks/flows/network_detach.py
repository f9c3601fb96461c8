"""Detach a network from a guest of any kind: its port there goes."""

from typing import Any

from gpve.tasks.errors import NotFound
from gpve.tasks.flow import Context, Flow, Opened, Step
from gpve.tasks.flows.guests import announce, end, find, read
from gpve.tasks.flows.network_attach import Plug, locks, plug, plugged, unplug
from gpve.tasks.ledger import Tx


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    guest = find(tx, wish, None)
    announce(tx, guest, "network-detach", task)
    if tx.get("port", guest["id"], wish.body.network) is None:
        there = ", ".join(port["network"] for port in tx.where("port", guest=guest["id"])) or "none"
        raise NotFound(f"port of guest {guest['id']} (it has {there}) in network", wish.body.network)
    return Opened(guest["id"])


def _close(tx: Tx, seen: Context, done: bool) -> None:
    if done:
        tx.delete("port", seen.target, seen.body.network)
    end("network-detach")(tx, seen, done)


network_detach = Flow(
    "network_detach",
    version=1,
    body=Plug,
    open=_open,
    locks=locks,
    read=read,
    close=_close,
    steps=[Step("unplug", unplug, undo=plug, only_if=plugged)],
)
