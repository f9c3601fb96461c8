"""Drain a node: close it, send its guests elsewhere, wait until it is empty. It stays closed until `node_open`.

Guests that cannot be migrated keep the task waiting; `gpve.tasks.flows.evacuate.blockers` names them beforehand.
Aborting it (or a guest whose migration fails for good) opens the node again and calls back what is not moved yet; what
has moved stays where it is.
"""

from typing import Any

from gpve.tasks.flow import Body, Command, Context, Flow, InStore, Opened, Retry, Step
from gpve.tasks.flows.create import NodeName
from gpve.tasks.flows.nodes import alone, close, locks, node_named
from gpve.tasks.ledger import Tx

LOOK_S = 30.0
"""How often a drain looks whether the node is empty."""


class OnNodeItself(Body):
    """``node``: its name."""

    node: NodeName


def close_node(drain: Context) -> Command:
    """No more guests."""
    return InStore("node.set-open", {"node": drain.body.node, "open": False})


def reopen_node(drain: Context) -> Command:
    """As it was; migrations that are under way are called back."""
    return InStore("node.set-open", {"node": drain.body.node, "open": drain.facts["open"], "recall": True})


def empty(drain: Context) -> Command:
    """Send away what can go, and wait for the rest."""
    return InStore("node.empty", {"node": drain.body.node})


def open_(tx: Tx, wish: Any, task: int) -> Opened:
    """`Flow.open`: the node is there, and not being drained."""
    name = node_named(tx, wish.body.node)["name"]
    alone(tx, name, "node_drain", f"{wish.flow.name} {name}", "drained by task {task}", "cancel that task")
    return Opened(name)


def read(tx: Tx, target: str, body: Any) -> dict[str, Any]:
    """Whether the node was open."""
    node = tx.get("node", body.node)
    return {"open": node is not None and node["open"]}


node_drain = Flow(
    "node_drain",
    version=1,
    body=OnNodeItself,
    open=open_,
    locks=locks,
    read=read,
    close=close,
    steps=[
        Step("close", close_node, undo=reopen_node),
        Step("empty", empty, commit=True, retry=Retry(first_s=LOOK_S, factor=1.0, longest_s=LOOK_S)),
    ],
)
