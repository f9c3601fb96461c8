"""Changes of the store that steps make: the verbs of `InStore`, and the claim that `Place` writes.

Each is a function (tx, task, arguments) -> result. It raises `Refuse` if it changed nothing and cannot, and it may be
repeated: what is there already, or gone already, is no error.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gpve.tasks.claims import charged, overdrawn, release
from gpve.tasks.errors import Conflict, Refuse
from gpve.tasks.events import encode
from gpve.tasks.flows.evacuate import evacuate, recall
from gpve.tasks.flows.homecoming import report, revive, settle
from gpve.tasks.ledger import Tx


class Decided(NamedTuple):
    """The scheduler's answer: ``node``, as it was at ``version``; ``devices``: how many gpu_milli of which device."""

    node: str
    version: int
    devices: Mapping[str, int]


class NoFit(NamedTuple):
    """The scheduler's answer when no node fits: how many nodes for which reason."""

    reasons: Mapping[str, int]


def claim(tx: Tx, task: int, guest: int, spec: Mapping[str, Any], role: str, decided: Decided) -> dict[str, Any]:
    """Claim what ``guest`` needs on the node decided on. Raises `Conflict` if the node changed since the decision.

    The version alone does not tell: of two decisions of one call, the second counts on the first, and if that one comes
    too late, somebody else's claim has taken the version which the second was made for. So it is asked whether it fits.
    """
    node = tx.get("node", decided.node)
    if node is None or node["version"] != decided.version or not (node["open"] and node["alive"]):
        raise Conflict("node", decided.node)
    row = {
        "guest": guest,
        "node": decided.node,
        "role": role,
        "task": task,
        "cpu_milli": spec["cpu_milli"],
        "memory_mib": spec["memory_mib"],
        "gpu_milli": sum(decided.devices.values()),
        "devices": encode(dict(decided.devices)),
    }
    after = charged(node, row, +1)
    if overdrawn(after):
        raise Conflict("node", decided.node)
    tx.put("claim", row)
    tx.put("node", after)
    return {"node": decided.node, "devices": dict(decided.devices)}


def follow(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The guest is on ``node`` now: its row, its volumes and the role of its claims say so."""
    guest = tx.get("guest", arguments["guest"])
    if guest is None:
        raise Refuse(f"no guest {arguments['guest']}")
    tx.put("guest", {**guest, "node": arguments["node"]})
    for row in tx.where("claim", guest=guest["id"]):
        role = "placement" if row["node"] == arguments["node"] else "outgoing"
        tx.put("claim", {**row, "role": role})
    for volume in tx.where("volume", guest=guest["id"]):
        tx.put("volume", {**volume, "node": arguments["node"]})
    return {}


def reclaim(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The claim of ``guest`` on ``node`` is of other amounts, if the node has them left."""
    row = tx.get("claim", arguments["guest"], arguments["node"])
    node = tx.get("node", arguments["node"])
    if row is None or node is None:
        raise Refuse(f"guest {arguments['guest']} claims nothing on node {arguments['node']}")
    now = {**row, "cpu_milli": arguments["cpu_milli"], "memory_mib": arguments["memory_mib"]}
    after = {**charged(charged(node, row, -1), now, +1), "version": node["version"] + 1}
    for amount in ("cpu_milli", "memory_mib"):
        if now[amount] > row[amount] and after[f"used_{amount}"] > node[amount]:
            left = node[amount] - node[f"used_{amount}"]
            raise Refuse(f"node {node['name']} has {left} {amount} left, {now[amount] - row[amount]} more are needed")
    tx.put("claim", now)
    tx.put("node", after)
    return {}


def set_open(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the node takes guests; if it does again, the migrations of this task's drain are called back."""
    node = tx.get("node", arguments["node"])
    if node is None:
        raise Refuse(f"no node {arguments['node']}")
    if node["open"] != arguments["open"]:
        tx.put("node", {**node, "open": arguments["open"], "version": node["version"] + 1})
    if arguments.get("recall"):
        recall(tx, task, node["name"])
    return {}


def empty(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing is on the node any more; until then, what can go is sent away, and what it waits for is the reason."""
    left = evacuate(tx, task, arguments)
    if left is not None:
        raise Refuse(left[0], again=left[1])
    return {}


def abandon(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give back the claim of ``guest`` on a dead ``node``, and note that the node may still have something of it."""
    release(tx, task, arguments)
    tx.put("debris", {"node": arguments["node"], "guest": arguments["guest"]})
    return {}


VERBS: dict[str, Callable[[Tx, int, Mapping[str, Any]], dict[str, Any]]] = {
    "release": release,
    "follow": follow,
    "reclaim": reclaim,
    "node.set-open": set_open,
    "node.empty": empty,
    "abandon": abandon,
    "node.settle": settle,
    "node.revive": revive,
    "node.report": report,
}
"""What `InStore` commands may name."""
