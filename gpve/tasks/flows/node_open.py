"""Open a node that was drained: it takes guests again."""

from gpve.tasks.flow import Command, Context, Flow, InStore, Step
from gpve.tasks.flows.node_drain import OnNodeItself, open_, read
from gpve.tasks.flows.nodes import close, locks


def open_node(node: Context) -> Command:
    """It takes guests."""
    return InStore("node.set-open", {"node": node.body.node, "open": True})


def as_before(node: Context) -> Command:
    """As it was."""
    return InStore("node.set-open", {"node": node.body.node, "open": node.facts["open"]})


node_open = Flow(
    "node_open",
    version=1,
    body=OnNodeItself,
    open=open_,
    locks=locks,
    read=read,
    close=close,
    steps=[Step("open", open_node, undo=as_before)],
)
