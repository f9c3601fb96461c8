"""Attach a network to a guest of any kind: a port in it.

It is plugged now, or, for an agent that is stopped, with its sandbox.
"""

from typing import Any

from gpve.tasks.flow import Command, Context, Flow, Lock, Opened, Step
from gpve.tasks.flows.create import plug_into
from gpve.tasks.flows.guests import Name, OnGuest, announce, end, find, guest_lock, on, ports, read, was
from gpve.tasks.ledger import Tx


class Plug(OnGuest):
    """A guest and a network."""

    network: Name


def locks(target: Any, body: Plug) -> list[Lock]:
    """The guest, and the network, which others may use as well."""
    return [guest_lock(body.guest), Lock(f"network/{body.network}", shared=True)]


def plug(seen: Context) -> Command:
    """The one port."""
    return on(seen, "port.plug", ports=[port for port in ports(seen) if port["network"] == seen.body.network])


def unplug(seen: Context) -> Command:
    """The one port."""
    return on(seen, "port.unplug", ports=[port for port in ports(seen) if port["network"] == seen.body.network])


def plugged(seen: Context) -> bool:
    """Whether the guest's ports are on its node now: those of an agent come and go with its sandbox."""
    return seen.facts["guest"]["kind"] != "agent" or not was(seen, "stopped")


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    guest = find(tx, wish, None)
    announce(tx, guest, "network-attach", task)
    plug_into(tx, guest["id"], [wish.body.network])
    return Opened(guest["id"])


def _close(tx: Tx, seen: Context, done: bool) -> None:
    if not done:
        tx.delete("port", seen.target, seen.body.network)
    end("network-attach")(tx, seen, done)


network_attach = Flow(
    "network_attach",
    version=1,
    body=Plug,
    open=_open,
    locks=locks,
    read=read,
    close=_close,
    steps=[Step("plug", plug, undo=unplug, only_if=plugged)],
)
