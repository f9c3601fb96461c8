"""Create a network. A node makes its bridge with the first port that is plugged there, so this is the store's alone.

It has no steps: the network is announced when the task is submitted, and there for all when it is closed.
"""

from typing import Any, Literal

from gpve.tasks.errors import Forbidden
from gpve.tasks.flow import Body, Context, Flow, Lock, Opened
from gpve.tasks.flows.guests import Name
from gpve.tasks.ledger import Tx


class OnNetwork(Body):
    """``network``: its name."""

    network: Name


class NetworkCreate(OnNetwork):
    """``kind``: what it is on the nodes."""

    kind: Literal["bridge", "vlan", "vxlan"] = "bridge"


def locks(target: Any, body: OnNetwork) -> list[Lock]:
    """The network, against all that use it."""
    return [Lock(f"network/{body.network}")]


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    body = wish.body
    if tx.get("network", body.network) is not None:
        raise Forbidden(f"create network {body.network!r}", "the name of another", ("another name",))
    tx.put("network", {"name": body.network, "kind": body.kind, "task": task})
    return Opened(body.network)


def _close(tx: Tx, seen: Context, done: bool) -> None:
    row = tx.get("network", seen.target)
    if row is not None and done:
        tx.put("network", {**row, "task": None})
    elif row is not None:
        tx.delete("network", seen.target)


network_create = Flow("network_create", version=1, body=NetworkCreate, open=_open, locks=locks, close=_close, steps=[])
