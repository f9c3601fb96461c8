"""What the flows of nodes share. Claims guard a node, so none of them has a lock; none has a row to close."""

from typing import Any

from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.flow import Context, Lock
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.state import CLOSED


def locks(target: Any, body: Any) -> list[Lock]:
    """`Flow.locks`: none."""
    return []


def close(tx: Tx, node: Context, done: bool) -> None:
    """`Flow.close`: the steps have said it all."""


def node_named(tx: Tx, name: str) -> Row:
    """The row of a node. Raises `NotFound`."""
    row = tx.get("node", name)
    if row is None:
        raise NotFound("node", name)
    return row


def alone(tx: Tx, name: str, flow: str, wish: str, state: str, instead: str) -> None:
    """Raises `Forbidden` while a task of ``flow`` is at work on the node: ``wish`` is not to be had in that state."""
    for other in tx.where("task", target=name):
        if other["flow"] == flow and other["status"] not in CLOSED:
            raise Forbidden(wish, state.format(task=other["id"]), (instead,))
