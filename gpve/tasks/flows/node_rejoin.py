"""A node that was declared dead comes back: it removes what moved elsewhere, and takes guests again.

While guests of the node are in the hands of tasks, it waits for them; recoveries that are not past their commit point
are called back, for the guest is at home again. What became of the other guests is the business of `node_survey`.
"""

from typing import Any

from gpve.tasks.errors import Forbidden
from gpve.tasks.flow import Body, Command, Context, Flow, InStore, OnNode, Opened, Step
from gpve.tasks.flows.create import NodeName
from gpve.tasks.flows.node_survey import FOR_EVER_S, PATIENT
from gpve.tasks.flows.nodes import alone, close, locks, node_named
from gpve.tasks.ledger import Tx


class NodeRejoin(Body):
    """``node``: its name."""

    node: NodeName


def settle(node: Context) -> Command:
    """Call recoveries back, and wait for the tasks of the node's guests."""
    return InStore("node.settle", {"node": node.body.node, "guests": None})


def clean(node: Context) -> Command:
    """Remove what is left of guests that are elsewhere."""
    left = node.results["settle"]["left"]
    return OnNode(node.body.node, "node.clean", {"guests": left}, f"node/{node.body.node}")


def revive(node: Context) -> Command:
    """It takes guests again, and is asked what runs."""
    return InStore("node.revive", {"node": node.body.node, "left": node.results["settle"]["left"]})


def open_(tx: Tx, wish: Any, task: int) -> Opened:
    """`Flow.open`: the node is there, was declared dead, and is not on its way back already."""
    name, wished = wish.body.node, f"have node {wish.body.node} rejoin"
    if node_named(tx, name)["alive"]:
        raise Forbidden(wished, "alive", ())
    alone(tx, name, wish.flow.name, wished, "on its way back (task {task})", "wait for its end")
    return Opened(name)


node_rejoin = Flow(
    "node_rejoin",
    version=1,
    body=NodeRejoin,
    open=open_,
    locks=locks,
    close=close,
    deadline_s=FOR_EVER_S,
    steps=[
        Step("settle", settle, commit=True, retry=PATIENT, deadline_s=FOR_EVER_S),
        Step("clean", clean),
        Step("revive", revive),
    ],
)
