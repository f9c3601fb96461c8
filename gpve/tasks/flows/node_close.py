"""Close a node: it takes no more guests, and those on it stay.

A drain that fails leaves a node as it was: who closes it first has it closed whatever becomes of the drain.
"""

from gpve.tasks.flow import Flow, Step
from gpve.tasks.flows.node_drain import OnNodeItself, close_node, open_, read
from gpve.tasks.flows.node_open import as_before
from gpve.tasks.flows.nodes import close, locks

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
