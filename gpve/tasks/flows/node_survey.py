"""Find out which guests of a node really run, and write down that the others do not.

After a loss of power the store says that guests run which do not. Those are stopped then, and those with ``ha`` are
started. A guest that somebody worked on between the question and the answer is asked after once more.
"""

from typing import Annotated, Any

from pydantic import Field

from gpve.tasks.flow import Body, Command, Context, Flow, InStore, OnNode, Opened, Retry, Step
from gpve.tasks.flows.create import NodeName
from gpve.tasks.flows.guests import GuestId
from gpve.tasks.flows.nodes import close, locks, node_named
from gpve.tasks.ledger import Tx

PATIENT = Retry(first_s=5.0, factor=1.5, longest_s=300.0, attempts=1 << 30)
"""How often it looks whether the tasks that it waits for are over: a stuck one may wait for days."""


FOR_EVER_S = 1e9


class NodeSurvey(Body):
    """``node``: its name. ``guests``: these alone; None: all that it carries."""

    node: NodeName
    guests: Annotated[tuple[GuestId, ...], Field(strict=False)] | None = None


def settle(node: Context) -> Command:
    """Wait until no task works on the guests."""
    return InStore("node.settle", {"node": node.body.node, "guests": node.body.guests})


def look(node: Context) -> Command:
    """Ask the node what runs."""
    guests = [guest for guest, _ in node.results["settle"]["here"]]
    return OnNode(node.body.node, "node.look", {"guests": guests}, f"node/{node.body.node}")


def report(node: Context) -> Command:
    """Write down what does not."""
    here, runs = node.results["settle"]["here"], node.results["look"]["runs"]
    lost = [[guest, revision] for guest, revision in here if guest not in runs]
    return InStore("node.report", {"node": node.body.node, "lost": lost})


def open_(tx: Tx, wish: Any, task: int) -> Opened:
    """`Flow.open`: the node is there."""
    return Opened(node_named(tx, wish.body.node)["name"])


node_survey = Flow(
    "node_survey",
    version=1,
    body=NodeSurvey,
    open=open_,
    locks=locks,
    close=close,
    deadline_s=FOR_EVER_S,
    steps=[
        Step("settle", settle, commit=True, retry=PATIENT, deadline_s=FOR_EVER_S),
        Step("look", look),
        Step("report", report),
    ],
)
