"""A node's return: what the flow `node_rejoin` changes in the store."""

import json
from collections.abc import Mapping
from typing import Any

from gpve.tasks.claims import release
from gpve.tasks.errors import Refuse
from gpve.tasks.flows.agent_start import agent_start
from gpve.tasks.flows.guests import OnGuest
from gpve.tasks.flows.vcluster_start import vcluster_start
from gpve.tasks.flows.vm_start import vm_start
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import Request, cancel, submit

START = {"vm": vm_start, "vcluster": vcluster_start, "agent": agent_start}


def settle(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """No task is at work on a guest of ``node``; recoveries that may still be called back are.

    The result: ``here``, the guests that should run there, with the revisions of their rows, and ``left``, those that
    are elsewhere by now. Raises `Refuse` until it is so.
    """
    node = arguments["node"]
    claimed = [tx.get("guest", claim["guest"]) for claim in tx.where("claim", node=node)]
    guests = [guest for guest in claimed if guest is not None]
    busy = [other for guest in guests if (other := _at_work(tx, guest)) is not None]
    for other in busy:
        if _recovers(other) and not other["committed"] and other["cancel"] is None:
            cancel(tx, other["id"], f"node {node} came back")
    if busy:
        told = ", ".join(str(other["id"]) for other in busy[:8])
        raise Refuse(f"guests of node {node} are in the hands of tasks {told}", again=True)
    here = [[guest["id"], guest["revision"]] for guest in guests if guest["phase"] in ("running", "paused")]
    return {"here": here, "left": [row["guest"] for row in tx.where("debris", node=node)]}


def revive(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``node`` is alive again, and has nothing left of the guests of ``left``.

    Not if it fell silent once more meanwhile, and guests are being recovered from it: then it will rejoin anew.
    """
    name = arguments["node"]
    for guest in arguments["left"]:
        tx.delete("debris", name, guest)
    leaving = [guest for guest in tx.where("guest", node=name) if (other := _at_work(tx, guest)) and _recovers(other)]
    node = tx.get("node", name)
    if node is not None and not leaving and not tx.where("debris", node=name):
        tx.put("node", {**node, "alive": True, "version": node["version"] + 1})
    return {}


def report(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The guests of ``lost`` (number, revision) do not run on ``node``: they are stopped. Those with ha are started."""
    for number, revision in arguments["lost"]:
        guest = tx.get("guest", number)
        if guest is None or guest["revision"] != revision:
            # Somebody was at work on it since, and knows better.
            continue
        if guest["kind"] == "agent":
            # A stopped agent claims nothing.
            release(tx, task, {"guest": number, "node": arguments["node"]})
        tx.put("guest", {**guest, "phase": "stopped"})
        if json.loads(guest["spec"])["ha"]:
            submit(tx, Request(START[guest["kind"]], OnGuest(guest=number), guest["project"], "ha"))
    return {}


def _at_work(tx: Tx, guest: Row) -> Row | None:
    """The task that works on a guest, unless it is stuck and waits for an operator."""
    other = None if guest["task"] is None else tx.get("task", guest["task"])
    return None if other is None or other["status"] in (*CLOSED, Status.STUCK) else other


def _recovers(task: Row) -> bool:
    return str(task["flow"]).endswith("_recover")
