"""Delete a network in which no guest has a port. As with its creation, this is the store's alone."""

from typing import Any

from gpve.tasks.errors import Forbidden
from gpve.tasks.flow import Context, Flow, Opened
from gpve.tasks.flows.create import usable
from gpve.tasks.flows.network_create import OnNetwork, locks
from gpve.tasks.ledger import Tx

NAMED = 8
"""Guests that the refusal names."""


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    name = wish.body.network
    usable(tx, name)
    guests = [str(port["guest"]) for port in tx.where("port", network=name)]
    if guests:
        named = ", ".join(guests[:NAMED]) + (f" and {len(guests) - NAMED} more" if len(guests) > NAMED else "")
        raise Forbidden(f"delete network {name!r}", f"in use by guests {named}", ("network_detach",))
    row = tx.get("network", name)
    # From here on nobody gets a port in it.
    tx.put("network", {**(row or {}), "task": task})
    return Opened(name)


def _close(tx: Tx, seen: Context, done: bool) -> None:
    row = tx.get("network", seen.target)
    if row is not None and done:
        tx.delete("network", seen.target)
    elif row is not None:
        tx.put("network", {**row, "task": None})


network_delete = Flow("network_delete", version=1, body=OnNetwork, open=_open, locks=locks, close=_close, steps=[])
