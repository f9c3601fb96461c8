"""A node's return: what the flows `node_rejoin` and `node_survey` change in the store."""

from collections.abc import Mapping
from typing import Any

from gpve.tasks.errors import Refuse
from gpve.tasks.events import decode
from gpve.tasks.flow import Flow
from gpve.tasks.flows.agent_restart import agent_restart
from gpve.tasks.flows.agent_stop import agent_stop
from gpve.tasks.flows.guests import OnGuest
from gpve.tasks.flows.node_survey import NodeSurvey, node_survey
from gpve.tasks.flows.vcluster_start import vcluster_start
from gpve.tasks.flows.vm_start import vm_start
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import Request, cancel, logged, submit

START = {"vm": vm_start, "vcluster": vcluster_start}


def settle(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """No task is at work on ``guests`` of ``node`` (None: all); recoveries that may still be called back are.

    Of all guests, those in the hands of stuck tasks are left for a survey of their own, which has more patience. Not
    those whose recovery is stuck and may have started them elsewhere: as long as that is so, the node cannot return.

    The result: ``here``, the guests that should run there, with the revisions of their rows, and ``left``, those that
    are elsewhere by now. Raises `Refuse` until it is so.
    """
    node = arguments["node"]
    wanted = [claim["guest"] for claim in tx.where("claim", node=node)]
    if arguments["guests"] is not None:
        wanted = [number for number in wanted if number in arguments["guests"]]
    guests = [guest for number in wanted if (guest := tx.get("guest", number)) is not None]
    at_work = [(guest, other) for guest in guests if (other := _at_work(tx, guest)) is not None]
    busy = [other for _, other in at_work if arguments["guests"] is not None or not _rests(tx, other)]
    for other in busy:
        if _recovers(other) and not other["committed"] and other["cancel"] is None:
            cancel(tx, other["id"], f"node {node} came back")
    if busy:
        told = ", ".join(str(other["id"]) for other in busy[:8])
        raise Refuse(f"guests of node {node} are in the hands of tasks {told}", again=True)
    left_alone = {guest["id"] for guest, _ in at_work} - _asked_after(tx, node)
    if left_alone:
        submit(tx, Request(node_survey, NodeSurvey(node=node, guests=tuple(sorted(left_alone))), actor="ha"))
    here = [[guest["id"], guest["revision"]] for guest in guests if guest["phase"] in ("running", "paused")]
    return {"here": here, "left": [row["guest"] for row in tx.where("debris", node=node)]}


def revive(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``node`` is alive again, and has nothing left of the guests of ``left``.

    Not if it fell silent once more meanwhile, and guests are being recovered from it: then it will rejoin anew.
    """
    name = arguments["node"]
    for guest in arguments["left"]:
        tx.delete("debris", name, guest)
    at_work = filter(None, (_at_work(tx, guest) for guest in tx.where("guest", node=name)))
    leaving = any(_recovers(other) and not _rests(tx, other) for other in at_work)
    node = tx.get("node", name)
    if node is not None and not leaving and not tx.where("debris", node=name):
        tx.put("node", {**node, "alive": True, "version": node["version"] + 1})
        submit(tx, Request(node_survey, NodeSurvey(node=name), actor="ha"))
    return {}


def report(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The guests of ``lost`` (number, revision) do not run on ``node``: they are stopped, and those with ha started."""
    doubt = []
    for number, revision in arguments["lost"]:
        guest = tx.get("guest", number)
        if guest is None:
            continue
        if guest["revision"] != revision:
            # Somebody was at work on it since: who knows whether it runs now?
            doubt.append(number)
            continue
        ha, kind = decode(guest["spec"])["ha"], guest["kind"]
        flow: Flow | None
        if kind == "agent":
            # What is left of its sandbox has to go in any case.
            flow = agent_restart if ha else agent_stop
        else:
            tx.put("guest", {**guest, "phase": "stopped"})
            flow = START[kind] if ha else None
        if flow is not None:
            submit(tx, Request(flow, OnGuest(guest=number), guest["project"], "ha"))
    if doubt:
        submit(tx, Request(node_survey, NodeSurvey(node=arguments["node"], guests=tuple(doubt)), actor="ha"))
    return {}


def _at_work(tx: Tx, guest: Row) -> Row | None:
    """The task that works on a guest."""
    return None if guest["task"] is None else tx.get("task", guest["task"])


def _recovers(task: Row) -> bool:
    return str(task["flow"]).endswith("_recover")


def _rests(tx: Tx, task: Row) -> bool:
    """Whether a task is stuck; a recovery only where it has turned, and so does not start the guest elsewhere."""
    if task["status"] != Status.STUCK:
        return False
    return not _recovers(task) or logged(tx, task["id"]).failed is not None


def _asked_after(tx: Tx, node: str) -> set[int]:
    """The guests for which surveys of their own wait already: a node may die and return while a task is stuck."""
    surveys = [row for row in tx.where("task", target=node) if row["flow"] == node_survey.name]
    bodies = [decode(row["body"]) for row in surveys if row["status"] not in CLOSED]
    return {guest for body in bodies for guest in body["guests"] or ()}
