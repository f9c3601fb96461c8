"""Drain a node: close it, send its guests elsewhere, wait until it is empty. It stays closed until `node_open`.

Guests that cannot be migrated keep the task waiting; `gpve.tasks.flows.evacuate.blockers` names them beforehand.
Aborting it (or a guest whose migration fails for good) opens the node again and calls back what is not moved yet; what
has moved stays where it is.
"""

from typing import Any

from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.flow import Body, Command, Context, Flow, InStore, Lock, Opened, Retry, Step
from gpve.tasks.flows.create import NodeName
from gpve.tasks.ledger import Tx
from gpve.tasks.state import CLOSED

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
    name = wish.body.node
    if tx.get("node", name) is None:
        raise NotFound("node", name)
    for other in tx.where("task", target=name):
        if other["flow"] == "node_drain" and other["status"] not in CLOSED:
            raise Forbidden(f"{wish.flow.name} {name}", f"drained by task {other['id']}", ("cancel that task",))
    return Opened(name)


def locks(target: Any, body: Any) -> list[Lock]:
    """None: claims guard a node, and `open_` keeps out a second drain."""
    return []


def read(tx: Tx, target: str, body: Any) -> dict[str, Any]:
    """Whether the node was open."""
    node = tx.get("node", body.node)
    return {"open": node is not None and node["open"]}


def close(tx: Tx, drain: Context, done: bool) -> None:
    """`Flow.close`: the steps have said it all."""


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
