"""High availability: which nodes have fallen silent, what becomes of the guests on them, and of nodes that come back.

A node beats. A beat that is written is acknowledged, and gives the node a lease of `Watch.lease_s` seconds from the
moment at which it *sent* the beat, by its own monotonic clock. A node whose lease runs out ends its ``ha`` guests
itself. An engine that has seen no new beat for as long and a margin, by *its* monotonic clock, declares the node dead,
in a transaction that finds the very beat that it saw last; from then on beats are counted, but give no lease. So when
a guest is started elsewhere, its first node has ended it: the one assumption is that clocks run at about the same rate.

Guests without ``ha`` are left alone: behind a cut cable they go on. A node that comes back, or was started anew, joins
again by the flow `node_rejoin`, which removes what has moved elsewhere; `node_survey` finds out what still runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpve.tasks.events import decode
from gpve.tasks.flows.guests import OnGuest
from gpve.tasks.flows.node_rejoin import NodeRejoin, node_rejoin
from gpve.tasks.flows.recover import RECOVER
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.state import CLOSED
from gpve.tasks.submit import Request, submit

ACTOR = "ha"
"""Who submits the tasks of high availability."""
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 300.0
"""A recovery that failed is tried again after a while, which doubles each time."""


def renew(tx: Tx, node: str, boot: str, engine: str) -> bool:
    """Note a beat of a node, and which start of it sent it; whether that gives the node a lease."""
    row = tx.get("node", node)
    if row is None:
        return False
    session = tx.get("session", node)
    beat = 1 if session is None else session["beat"] + 1
    dead_at = None if session is None else session["dead_at"]
    if session is not None and session["boot"] != boot and row["alive"]:
        # What ran there is gone, though nobody missed it in time.
        dead_at = session["beat"]
        row = _close(tx, row)
    tx.put("session", {"node": node, "boot": boot, "engine": engine, "beat": beat, "dead_at": dead_at})
    return bool(row["alive"])


def declare_dead(tx: Tx, node: str, beat: int) -> bool:
    """The node is dead: no beat came after number ``beat``. Whether it is so; False if one came."""
    row, session = tx.get("node", node), tx.get("session", node)
    if row is None or session is None or not row["alive"] or session["beat"] != beat:
        return False
    tx.put("session", {**session, "dead_at": beat})
    _close(tx, row)
    recover(tx, node)
    return True


def _close(tx: Tx, row: Row) -> Row:
    row = {**row, "alive": False, "version": row["version"] + 1}
    tx.put("node", row)
    return row


def recover(tx: Tx, node: str) -> list[int]:
    """Submit the recovery of every ``ha`` guest that ran on a dead node and that no task works on; the tasks."""
    row = tx.get("node", node)
    if row is None or row["alive"]:
        return []
    submitted = []
    for guest in tx.where("guest", node=node):
        # Phases of work belong to a task: what is half built, or half moved, is not looked at.
        if guest["task"] is None and guest["phase"] in ("running", "paused") and decode(guest["spec"])["ha"]:
            flow = RECOVER[guest["kind"]]
            if _may_try(tx, guest, flow.name):
                wish = Request(flow, OnGuest(guest=guest["id"]), guest["project"], ACTOR)
                submitted.append(submit(tx, wish)["id"])
    return submitted


def _may_try(tx: Tx, guest: Row, flow: str) -> bool:
    """Whether enough time has passed since the last recovery that failed."""
    tries = [row for row in tx.where("task", target=str(guest["id"])) if row["flow"] == flow]
    failed = [row for row in tries if row["status"] == "undone"]
    if not failed:
        return True
    wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(len(failed) - 1, 16))
    return bool(tx.now >= max(row["closed_at"] for row in failed) + wait)


def rejoin(tx: Tx, node: str) -> int | None:
    """Submit the return of a node that beats again; the task, or None if there is nothing to do."""
    row = tx.get("node", node)
    if row is None or row["alive"]:
        return None
    for other in tx.where("task", target=node):
        if other["flow"] == node_rejoin.name and other["status"] not in CLOSED:
            return None
    return int(submit(tx, Request(node_rejoin, NodeRejoin(node=node), actor=ACTOR))["id"])


@dataclass
class Found:
    """What a look at the sessions says."""

    silent: list[tuple[str, int]] = field(default_factory=list)
    """Nodes to be declared dead, and the last beat that was seen of each."""
    dead: list[str] = field(default_factory=list)
    """Nodes that were declared dead and are silent."""
    back: list[str] = field(default_factory=list)
    """Nodes that were declared dead and beat again."""


class Watch:
    """What one engine has seen of the nodes' beats, by its own monotonic clock."""

    def __init__(self, lease_s: float, margin_s: float) -> None:
        self.lease_s, self.margin_s = lease_s, margin_s
        self._seen: dict[str, tuple[int, float]] = {}
        """By node: its newest beat, and since when it is the newest."""
        self._looked = float("-inf")

    def look(self, rows: Iterable[Row], now: float) -> Found:
        """``rows``: node, beat, dead_at, alive. Whoever did not look for a while knows nothing, and begins anew."""
        if now - self._looked > self.lease_s:
            self._seen.clear()
        self._looked = now
        found = Found()
        for row in rows:
            node, beat = row["node"], row["beat"]
            seen = self._seen.get(node)
            if seen is None or seen[0] != beat:
                seen = self._seen[node] = (beat, now)
            quiet = now - seen[1] >= self.lease_s + self.margin_s
            if row["alive"]:
                if quiet:
                    found.silent.append((node, beat))
            elif quiet:
                found.dead.append(node)
            elif beat > (row["dead_at"] or 0):
                found.back.append(node)
        return found
