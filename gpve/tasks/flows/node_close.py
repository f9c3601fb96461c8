"""Close a node: it takes no more guests, and those on it stay.

A drain that fails leaves a node as it was: who closes it first has it closed whatever becomes of the drain.
"""

from gpve.tasks.flow import Command, Context, Flow, InStore, Step
from gpve.tasks.flows.node_drain import OnNodeItself, open_, read
from gpve.tasks.flows.node_open import as_before
from gpve.tasks.flows.nodes import close, locks


def close_node(node: Context) -> Command:
    """It takes no more guests."""
    return InStore("node.set-open", {"node": node.body.node, "open": False})


node_close = Flow(
    "node_close",
    version=1,
    body=OnNodeItself,
    open=open_,
    locks=locks,
    read=read,
    close=close,
    steps=[Step("close", close_node, undo=as_before)],
)
