"""A node that was declared dead comes back: it removes what moved elsewhere, takes guests again, and says what runs.

While guests of the node are in the hands of tasks, it waits for them; recoveries that are not past their commit point
are called back, for the guest is at home again. At the end the store says of every guest that did not survive that it
is stopped, and those with ``ha`` are started.
"""

from typing import Any

from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.flow import Body, Command, Context, Flow, InStore, Lock, OnNode, Opened, Retry, Step
from gpve.tasks.flows.create import NodeName
from gpve.tasks.ledger import Tx
from gpve.tasks.state import CLOSED

LOOK_S = 5.0
"""How often it looks whether the tasks that it waits for are over."""
PATIENT = Retry(first_s=LOOK_S, factor=1.0, longest_s=LOOK_S)


class NodeRejoin(Body):
    """``node``: its name."""

    node: NodeName


def settle(node: Context) -> Command:
    """Call recoveries back, and wait for the tasks of the node's guests."""
    return InStore("node.settle", {"node": node.body.node})


def clean(node: Context) -> Command:
    """Remove what is left of guests that are elsewhere."""
    return _on(node, "node.clean", guests=node.results["settle"]["left"])


def revive(node: Context) -> Command:
    """It takes guests again."""
    return InStore("node.revive", {"node": node.body.node, "left": node.results["settle"]["left"]})


def look(node: Context) -> Command:
    """Ask the node what runs."""
    return _on(node, "node.look", guests=[guest for guest, _ in node.results["settle"]["here"]])


def report(node: Context) -> Command:
    """Write down what did not survive."""
    here, runs = node.results["settle"]["here"], node.results["look"]["runs"]
    lost = [[guest, revision] for guest, revision in here if guest not in runs]
    return InStore("node.report", {"node": node.body.node, "lost": lost})


def _on(node: Context, verb: str, **arguments: Any) -> OnNode:
    return OnNode(node.body.node, verb, arguments, f"node/{node.body.node}")


def open_(tx: Tx, wish: Any, task: int) -> Opened:
    """`Flow.open`: the node is there, was declared dead, and is not on its way back already."""
    name = wish.body.node
    row = tx.get("node", name)
    if row is None:
        raise NotFound("node", name)
    if row["alive"]:
        raise Forbidden(f"have node {name} rejoin", "alive", ())
    for other in tx.where("task", target=name):
        if other["flow"] == wish.flow.name and other["status"] not in CLOSED:
            raise Forbidden(f"have node {name} rejoin", f"on its way back (task {other['id']})", ("wait for its end",))
    return Opened(name)


def locks(target: Any, body: Any) -> list[Lock]:
    """None: claims guard a node, and `open_` keeps out a second return."""
    return []


def close(tx: Tx, node: Context, done: bool) -> None:
    """`Flow.close`: the steps have said it all."""


node_rejoin = Flow(
    "node_rejoin",
    version=1,
    body=NodeRejoin,
    open=open_,
    locks=locks,
    close=close,
    steps=[
        Step("settle", settle, commit=True, retry=PATIENT),
        Step("clean", clean),
        Step("revive", revive),
        Step("look", look),
        Step("report", report),
    ],
)
