"""Who belongs to the cluster: nodes, from their joining to their leaving, and the other servers."""

import asyncio
import json
import logging
from typing import Any

from gpve.model.kinds import KINDS, taint_simulated, taint_without
from gpve.server import authority as certs
from gpve.server.access import Access, Wish, check_name
from gpve.server.authority import Authority
from gpve.server.problems import Problem
from gpve.server.sessions import SessionNodes
from gpve.server.tokens import expired
from gpve.tasks.errors import BadBody, Forbidden, NotFound
from gpve.tasks.events import encode
from gpve.tasks.flows.evacuate import blockers
from gpve.tasks.flows.node_drain import OnNodeItself
from gpve.tasks.flows.node_survey import NodeSurvey, node_survey
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.submit import Request

LOG = logging.getLogger(__name__)


class Members:
    """``name``: of this server."""

    def __init__(self, name: str, access: Access, authority: Authority, nodes: SessionNodes) -> None:
        self._name, self._access, self._authority, self._nodes = name, access, authority, nodes
        self._peers: tuple[float, list[str]] = (float("-inf"), [])

    async def node(self, name: str) -> tuple[Row, dict[str, Any]]:
        """A node's row, and what it says of itself."""
        row = await self._access.one("node", name)
        facts = await self._access.read(self._access.store.rows, "fact", node=name)
        return row, json.loads(facts[0]["facts"]) if facts else {}

    async def join(self, token: str, name: str, csr: bytes) -> tuple[bytes, list[str]]:
        """A node joins with a one-time token: its certificate, and where sessions are served."""
        check_name("join", "name", name)
        certificate = certs.node_certificate(self._authority, name, csr)

        def run(tx: Tx) -> None:
            row = tx.get("token", certs.digest(token))
            if row is None or row["purpose"] != certs.JOIN or expired(tx, row):
                raise Problem(401, "unauthenticated", "the token to join is unknown, used or expired")
            if row["name"] not in ("", name):
                raise BadBody("join", "name", f"this token is for node {row['name']}")
            if tx.get("fact", name) is not None and row["name"] != name:
                # Another machine must not take a node's place by mistake.
                raise Forbidden(f"join as node {name}", "a node of the cluster", (f"a token made for node {name}",))
            tx.delete("token", row["digest"])
            _certify(tx, name, certificate, kept=0)

        await self._access.change(run)
        return certificate, await self.peers()

    async def leave(self, name: str) -> None:
        """A node that carries nothing leaves for good; its certificate is worth nothing from then on."""

        def run(tx: Tx) -> None:
            row = tx.get("node", name)
            if row is None and tx.get("fact", name) is None:
                raise NotFound("node", name)
            carried = [claim["guest"] for claim in tx.where("claim", node=name)]
            carried += [guest["id"] for guest in tx.where("guest", node=name) if guest["id"] not in carried]
            if carried:
                told = ", ".join(map(str, sorted(carried)[:8]))
                raise Forbidden(f"remove node {name}", f"the home of guests {told}", ("drain it first",))
            for table in ("node", "fact", "session"):
                tx.delete(table, name)
            for row in tx.where("debris", node=name):
                tx.delete("debris", name, row["guest"])

        await self._access.change(run)
        self._end(name)

    async def end_strangers(self) -> None:
        """End the sessions that this server holds of nodes that left by another one."""
        held = [*self._nodes.sessions]
        if held:
            rows = await self._access.read(self._access.store.distinct, "fact", "node")
            members = {row["node"] for row in rows}
            for name in held:
                if name not in members:
                    self._end(name)

    def _end(self, name: str) -> None:
        session = self._nodes.sessions.get(name)
        if session is not None:
            LOG.info("the session of a node that left is ended", extra={"node": name})
            self._nodes.leave(session, f"node {name} was removed from the cluster")

    async def is_node(self, name: str, fingerprint: str) -> bool:
        """Whether this certificate is one of the node's."""
        rows = await self._access.read(self._access.store.rows, "fact", node=name)
        return bool(rows) and fingerprint in json.loads(rows[0]["certificates"])

    async def certify(self, name: str, certificate: bytes) -> None:
        """A node has another certificate; the one before it stays good until the node uses this one."""
        await self._access.change(lambda tx: _certify(tx, name, certificate, kept=1))

    async def greet(self, name: str, hello: Any) -> None:
        """A node has come, and says what it has."""

        def run(tx: Tx) -> None:
            fact = tx.get("fact", name)
            if fact is None:
                raise NotFound("node", name)
            if fact["facts"] != hello.facts_json:
                tx.put("fact", {**fact, "facts": hello.facts_json or "{}"})
            row = tx.get("node", name)
            has = {
                "cpu_milli": hello.cpu_milli,
                "memory_mib": hello.memory_mib,
                "gpus": encode(list(hello.gpus)),
                "gpu_model": hello.gpu_model,
                "labels": encode(dict(hello.labels)),
                "taints": encode(_taints(hello)),
            }
            if row is None:
                used = {"used_cpu_milli": 0, "used_memory_mib": 0, "used_gpu_milli": encode([0] * len(hello.gpus))}
                new = {"name": name, "open": True, "alive": True, "version": 1}
                tx.put("node", {**new, **has, **used})
            elif any(row[key] != value for key, value in has.items()):
                used_gpus = json.loads(row["used_gpu_milli"])
                if len(used_gpus) > len(hello.gpus) and any(used_gpus[len(hello.gpus) :]):
                    raise Problem(409, "not-now", f"node {name} lost a GPU that a guest claims")
                devices = [*used_gpus, *[0] * len(hello.gpus)][: len(hello.gpus)]
                now = {**row, **has, "used_gpu_milli": encode(devices)}
                tx.put("node", {**now, "version": row["version"] + 1})

        await self._access.change(run)

    async def seen(self, name: str, guests: list[int]) -> None:
        """A node saw that guests do not run any more: a task finds out what is true."""
        numbers = tuple(guest for guest in guests if 0 < guest <= 1 << 53)[:1000]
        if numbers:
            body = NodeSurvey(node=name, guests=numbers)
            await self._access.wait(self._access.engine.submit(Request(node_survey, body, actor=f"node {name}")))

    async def drain(self, name: str, wish: Wish) -> Row:
        """Submit the emptying of a node."""
        return await self._access.submit("node_drain", OnNodeItself(node=name), wish)

    async def would_stay(self, name: str) -> list[str]:
        """The dry run of a drain: which guests would keep the node from being emptied, and why."""

        def run(tx: Tx) -> list[str]:
            if tx.get("node", name) is None:
                raise NotFound("node", name)
            return [str(blocker) for blocker in blockers(tx, name)]

        return await self._access.change(run)

    async def close_node(self, name: str, wish: Wish) -> Row:
        """Submit the closing of a node."""
        return await self._access.submit("node_close", OnNodeItself(node=name), wish)

    async def open_node(self, name: str, wish: Wish) -> Row:
        """Submit the opening of a node that was drained or closed."""
        return await self._access.submit("node_open", OnNodeItself(node=name), wish)

    async def peers(self) -> list[str]:
        """Where the sessions of nodes are served: host:port of every server that lives. At most two seconds old."""
        now = asyncio.get_running_loop().time()
        if now - self._peers[0] > 2.0:
            if self._peers[1]:
                # Said first: a thousand nodes that come at once shall not all ask.
                self._peers = (now, self._peers[1])
            servers, alive = await self._access.read(self._access.store.rows, "server"), await self.alive()
            self._peers = (now, [row["peers"] for row in servers if row["name"] in alive])
        return self._peers[1]

    async def others(self) -> list[str]:
        """Where the other servers are that live: host:port."""
        servers, alive = await self._access.read(self._access.store.rows, "server"), await self.alive()
        return [row["peers"] for row in servers if row["name"] in alive and row["name"] != self._name]

    async def alive(self) -> set[str]:
        """The servers that live."""
        now = await self._access.read(self._access.store.now)
        return {
            row["name"]
            for row in await self._access.read(self._access.store.rows, "engine")
            if row["lease_until"] > now
        }


def _taints(hello: Any) -> list[str]:
    """What a node says that it does not run, and what it only simulates."""
    without = [kind for kind in KINDS if hello.kinds and kind not in hello.kinds]
    simulated = [kind for kind in KINDS if kind in hello.simulated and kind not in without]
    return [*map(taint_without, without), *map(taint_simulated, simulated)]


def _certify(tx: Tx, name: str, certificate: bytes, kept: int) -> None:
    """A node has a certificate; so many of those before it stay good."""
    fact = tx.get("fact", name) or {"node": name, "certificates": "[]", "facts": "{}"}
    before = json.loads(fact["certificates"])
    tx.put("fact", {**fact, "certificates": encode([*before[len(before) - kept :], certs.fingerprint(certificate)])})
