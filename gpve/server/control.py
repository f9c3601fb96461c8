"""The use cases: what anybody may ask of a cluster. HTTP and gRPC translate, nothing else.

Reads go to the store in threads of their own; changes go through the engine, whose transactions many callers share.
"""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from gpve import __version__
from gpve.engine.engine import Engine
from gpve.model.kinds import KINDS
from gpve.scheduler.policy import Policy
from gpve.server import authority as certs
from gpve.server.authority import Authority
from gpve.server.calls import Call
from gpve.server.problems import Problem
from gpve.server.sessions import SessionNodes
from gpve.server.watch import Pulse
from gpve.store.sql import SqlStore
from gpve.tasks.audit import audit
from gpve.tasks.errors import BadBody, Forbidden, NotFound
from gpve.tasks.events import encode
from gpve.tasks.flow import Body, Flow, Place
from gpve.tasks.flows import FLOWS
from gpve.tasks.flows.create import Created
from gpve.tasks.flows.evacuate import blockers
from gpve.tasks.flows.guests import no_use
from gpve.tasks.flows.node_drain import OnNodeItself
from gpve.tasks.flows.node_survey import NodeSurvey, node_survey
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import KEY, Request, cancel, resume
from gpve.tasks.worker import Rules
from gpve.v1 import node_pb2 as pb
from gpve.world.placement import Explained, SchedulerPlacer
from gpve.world.store import StoreDown

Remote = Callable[[str, str, dict[str, Any]], AsyncIterator[pb.CallFrame]]
T = TypeVar("T")
PATIENCE_S = 20.0
"""For the store; then the caller is told that it does not answer."""
AT_ONCE = 2000
"""Changes that wait for a transaction; who comes then is asked to come later."""
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
PROJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
OVER = (*CLOSED, Status.STUCK)


@dataclass(frozen=True)
class Wish:
    """On whose behalf, and on which conditions. ``revision``: what the guest's must be (If-Match)."""

    actor: str
    project: str = "default"
    key: str | None = None
    revision: int | None = None


class Control:
    """The cluster, as one server serves it."""

    def __init__(
        self,
        name: str,
        store: SqlStore,
        nodes: SessionNodes,
        engine: Engine,
        rules: Rules,
        authority: Authority,
        policy: Policy,
    ) -> None:
        self.name, self.store, self.nodes, self.engine, self.rules = name, store, nodes, engine, rules
        self.authority = authority
        self.pulse = Pulse(self)
        self.remote: Remote | None = None
        """How nodes are reached whose sessions other servers hold."""
        self.ready = False
        """Whether the scheduler is warm and the engine runs."""
        self._explainer = SchedulerPlacer(policy)
        self._explaining = threading.Lock()
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="reader")
        self._changing = 0
        self._largest: tuple[float, list[Row]] = (float("-inf"), [])
        self._peers: tuple[float, list[str]] = (float("-inf"), [])
        self._known: dict[str, tuple[float, str | None]] = {}
        """Tokens by digest: when they were looked up, and their names."""

    async def read(self, ask: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Ask the store in a thread."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(
            loop.run_in_executor(self._readers, partial(ask, *arguments, **named)), PATIENCE_S
        )

    async def change(self, run: Callable[[Tx], T]) -> T:
        """Make a change in the engine's next transaction."""
        answer: T = await self._wait(self.engine.transact(Work(run)))
        return answer

    async def _wait(self, future: Any) -> Any:
        self._changing += 1
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE_S)
        finally:
            self._changing -= 1

    # Tasks.

    async def submit(self, flow: str, body: Body, wish: Wish) -> Row:
        """Submit a task; its row."""
        if self._changing >= AT_ONCE:
            raise Problem(429, "too-many", f"{AT_ONCE} changes wait already", retry_after_s=1)
        if wish.key is not None and not KEY.fullmatch(wish.key):
            raise BadBody(flow, "Idempotency-Key", "1 to 128 printable ASCII characters without blanks are wanted")
        if not PROJECT.fullmatch(wish.project):
            raise BadBody(flow, "project", "1 to 63 lower-case letters, digits, dots and dashes are wanted")
        check = (
            None
            if wish.revision is None
            else partial(_unchanged, guest=getattr(body, "guest", 0), revision=wish.revision)
        )
        request = Request(flow_of(flow), body, wish.project, wish.actor, wish.key, check)
        row: Row = await self._wait(self.engine.submit(request))
        return row

    async def create(self, kind: str, body: Created, wish: Wish) -> Row:
        """Submit a guest's creation."""
        await self._could_fit(body)
        return await self.submit(f"{kind}_create", body, wish)

    async def act(self, kind: str, operation: str, guest: int, arguments: dict[str, Any], wish: Wish) -> Row:
        """Submit an operation on a guest of this kind; its project is the guest's own."""
        row = await self.guest(guest, kind)
        flow = flow_of(f"{kind}_{operation}")
        try:
            body = flow.body.model_validate({"guest": guest, **arguments})
        except ValidationError as error:
            first = error.errors()[0]
            raise BadBody(flow.name, ".".join(map(str, first["loc"])) or "body", first["msg"]) from None
        return await self.submit(flow.name, body, Wish(wish.actor, row["project"], wish.key, wish.revision))

    async def _could_fit(self, body: Created) -> None:
        """Raise for what no node could hold if it were empty: it would wait for ever."""
        rows = await self.node_rows()
        if not rows or any(_holds(row, body) for row in rows):
            return
        for name in ("cpu_milli", "memory_mib"):
            most = max(row[name] for row in rows)
            if getattr(body, name) > most:
                raise BadBody("create", name, f"{getattr(body, name)} is more than any node has; the largest: {most}")
        most = max(len(json.loads(row["gpus"])) for row in rows)
        if body.gpu_count > most:
            raise BadBody("create", "gpu_count", f"{body.gpu_count} is more than any node has; the largest: {most}")
        raise BadBody("create", "cpu_milli", "no node is large enough in all of CPU, memory and GPUs at once")

    async def node_rows(self) -> list[Row]:
        """All nodes, at most a second old."""
        now = asyncio.get_running_loop().time()
        if now - self._largest[0] > 1.0:
            self._largest = (now, await self.read(self.store.rows, "node"))
        return self._largest[1]

    async def task(self, number: int) -> Row:
        """A task's row. Raises `NotFound`."""
        return await self._one("task", number)

    async def tasks(self, after: int | None, limit: int, **equal: Any) -> list[Row]:
        """Tasks, the newest first, behind number ``after``."""
        rows, _ = await self.read(self.store.page, "task", after, limit, newest=True, **equal)
        return rows

    async def cancel(self, number: int, reason: str) -> Row:
        """Ask for the end of a task."""
        row = await self.change(lambda tx: cancel(tx, number, reason))
        self.engine.hint()
        return row

    async def resume(self, number: int) -> Row:
        """Give a stuck task a new deadline."""
        row = await self.change(lambda tx: resume(tx, number))
        self.engine.hint()
        return row

    # Guests.

    async def guest(self, number: int, kind: str | None = None) -> Row:
        """A guest's row. Raises `NotFound`."""
        if not 0 < number <= 1 << 53:
            raise NotFound(kind or "guest", number)
        rows = await self.read(self.store.rows, "guest", id=number)
        if not rows or kind not in (None, rows[0]["kind"]):
            raise NotFound(kind or "guest", number)
        return rows[0]

    async def guests(self, after: int | None, limit: int, **equal: Any) -> tuple[list[Row], int]:
        """Guests by number, behind number ``after``; and the revision from which to watch."""
        return await self.read(self.store.page, "guest", after, limit, **equal)

    async def waits_for(self, guest: Row) -> str:
        """Why a guest is not placed yet; empty if that is not what it is about."""
        if guest["task"] is None:
            return ""
        rows = await self.read(self.store.rows, "task", id=guest["task"])
        return str(rows[0]["reason"] or "") if rows else ""

    # Nodes.

    async def node(self, name: str) -> tuple[Row, dict[str, Any]]:
        """A node's row, and what it says of itself."""
        row = await self._one("node", name)
        facts = await self.read(self.store.rows, "fact", node=name)
        return row, json.loads(facts[0]["facts"]) if facts else {}

    async def join(self, token: str, name: str, csr: bytes) -> tuple[bytes, list[str]]:
        """A node joins with a one-time token: its certificate, and where sessions are served."""
        if not NODE_NAME.fullmatch(name):
            raise BadBody("join", "name", "1 to 63 lower-case letters, digits, dots and dashes are wanted")
        certificate = certs.node_certificate(self.authority, name, csr)

        def run(tx: Tx) -> None:
            row = tx.get("token", certs.digest(token))
            if row is None or row["purpose"] != certs.JOIN or _expired(tx, row):
                raise Problem(401, "unauthenticated", "the token to join is unknown, used or expired")
            if row["name"] not in ("", name):
                raise BadBody("join", "name", f"this token is for node {row['name']}")
            if tx.get("fact", name) is not None and row["name"] != name:
                # Another machine must not take a node's place by mistake.
                raise Forbidden(f"join as node {name}", "a node of the cluster", (f"a token made for node {name}",))
            tx.delete("token", row["digest"])
            _certify(tx, name, certificate, kept=0)

        await self.change(run)
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

        await self.change(run)
        session = self.nodes.sessions.get(name)
        if session is not None:
            self.nodes.leave(session)

    async def is_node(self, name: str, fingerprint: str) -> bool:
        """Whether this certificate is one of the node's."""
        rows = await self.read(self.store.rows, "fact", node=name)
        return bool(rows) and fingerprint in json.loads(rows[0]["certificates"])

    async def certify(self, name: str, certificate: bytes) -> None:
        """A node has another certificate; the one before it stays good until the node uses this one."""
        await self.change(lambda tx: _certify(tx, name, certificate, kept=1))

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
            }
            if row is None:
                used = {"used_cpu_milli": 0, "used_memory_mib": 0, "used_gpu_milli": encode([0] * len(hello.gpus))}
                new = {"name": name, "open": True, "alive": True, "taints": "[]", "version": 1}
                tx.put("node", {**new, **has, **used})
            elif any(row[key] != value for key, value in has.items()):
                used_gpus = json.loads(row["used_gpu_milli"])
                if len(used_gpus) > len(hello.gpus) and any(used_gpus[len(hello.gpus) :]):
                    raise Problem(409, "not-now", f"node {name} lost a GPU that a guest claims")
                devices = [*used_gpus, *[0] * len(hello.gpus)][: len(hello.gpus)]
                now = {**row, **has, "used_gpu_milli": encode(devices)}
                tx.put("node", {**now, "version": row["version"] + 1})

        await self.change(run)

    async def seen(self, name: str, guests: list[int]) -> None:
        """A node saw that guests do not run any more: a task finds out what is true."""
        numbers = tuple(guest for guest in guests if 0 < guest <= 1 << 53)[:1000]
        if numbers:
            body = NodeSurvey(node=name, guests=numbers)
            await self._wait(self.engine.submit(Request(node_survey, body, actor=f"node {name}")))

    async def drain(self, name: str, wish: Wish) -> Row:
        """Submit the emptying of a node."""
        return await self.submit("node_drain", OnNodeItself(node=name), wish)

    async def would_stay(self, name: str) -> list[str]:
        """The dry run of a drain: which guests would keep the node from being emptied, and why."""

        def run(tx: Tx) -> list[str]:
            if tx.get("node", name) is None:
                raise NotFound("node", name)
            return [str(blocker) for blocker in blockers(tx, name)]

        return await self.change(run)

    async def open_node(self, name: str, wish: Wish) -> Row:
        """Submit the opening of a node that was drained."""
        return await self.submit("node_open", OnNodeItself(node=name), wish)

    # The cluster.

    async def peers(self) -> list[str]:
        """Where the sessions of nodes are served: host:port of every server that lives. At most two seconds old."""
        now = asyncio.get_running_loop().time()
        if now - self._peers[0] > 2.0:
            if self._peers[1]:
                # Said first: a thousand nodes that come at once shall not all ask.
                self._peers = (now, self._peers[1])
            servers, alive = await self.read(self.store.rows, "server"), await self._alive()
            self._peers = (now, [row["peers"] for row in servers if row["name"] in alive])
        return self._peers[1]

    async def others(self) -> list[str]:
        """Where the other servers are that live: host:port."""
        servers, alive = await self.read(self.store.rows, "server"), await self._alive()
        return [row["peers"] for row in servers if row["name"] in alive and row["name"] != self.name]

    async def forget_decisions(self) -> None:
        """Forget calls of the scheduler that lie before what the change log still has."""
        gone = await self.read(self.store.compacted_decisions, 1000)
        if gone:

            def run(tx: Tx) -> None:
                for key in gone:
                    tx.delete("decision", *key)

            await self.change(run)

    async def _alive(self) -> set[str]:
        now = await self.read(self.store.now)
        return {row["name"] for row in await self.read(self.store.rows, "engine") if row["lease_until"] > now}

    async def status(self) -> dict[str, Any]:
        """The cluster in short."""
        nodes = await self.node_rows()
        tasks = await self.read(self.store.counts, "task", "status")
        alarms = await self.read(self.store.rows, "alarm", limit=100)
        return {
            "version": __version__,
            "revision": await self.read(self.store.revision),
            "nodes": len(nodes),
            "nodes_alive": sum(row["alive"] for row in nodes),
            "guests": sum((await self.read(self.store.counts, "guest", "phase")).values()),
            "tasks": {status: count for status, count in tasks.items() if status not in CLOSED},
            "servers": sorted(await self._alive()),
            "alarms": [f"task {row['task']}: {row['text']}" for row in alarms],
        }

    async def quota(self, project: str) -> Row:
        """What a project uses, and its limits."""
        rows = await self.read(self.store.rows, "quota", project=project)
        return rows[0] if rows else no_use(project)

    async def limit(self, project: str, limits: dict[str, int | None]) -> Row:
        """Give a project limits: of guests, cpu_milli, memory_mib; None is no limit. What it has it keeps."""
        if not PROJECT.fullmatch(project):
            raise BadBody("quota", "project", "1 to 63 lower-case letters, digits, dots and dashes are wanted")

        def run(tx: Tx) -> Row:
            row = {**(tx.get("quota", project) or no_use(project)), **limits}
            tx.put("quota", row)
            return row

        return await self.change(run)

    async def audit(self) -> list[str]:
        """Check every invariant that can be read off the store; a sentence for each finding.

        The store goes on meanwhile: what is found must be found again to be believed.
        """
        first = set(await self.read(audit, self.store.rows, FLOWS))
        if not first:
            return []
        return sorted(first & set(await self.read(audit, self.store.rows, FLOWS)))

    async def not_ready(self) -> str:
        """Why this server should not be asked; empty: it may be."""
        if not self.ready:
            return "starting"
        try:
            await asyncio.wait_for(self.read(self.store.revision), 2.0)
        except (StoreDown, TimeoutError):
            return "the database does not answer"
        return ""

    async def explain(self, number: int) -> dict[str, Any]:
        """Why a guest is where it is, or why it waits: what every node says of it now."""
        guest = await self.guest(number)
        spec = json.loads(guest["spec"])
        task = await self.read(self.store.rows, "task", id=guest["task"]) if guest["task"] is not None else []
        place = Place(number, spec, "placement", only=json.loads(task[0]["body"]).get("node") if task else None)
        told = await self.read(self._explain, place)
        if guest["node"] is not None:
            sentence = f"on node {guest['node']}; {guest['phase']}"
        elif not task:
            sentence = f"{guest['phase']}: it claims nothing"
        elif task[0]["status"] == Status.WAITING:
            waits = f"waits for a place (task {guest['task']})"
            sentence = f"{waits}; {told.nearest or 'there is no node'}" if not told.best else f"{waits}; it fits now"
        else:
            sentence = f"task {guest['task']} is {task[0]['status']}"
        return {
            "guest": number,
            "sentence": sentence,
            "nodes": told.counts,
            "nearest": told.nearest,
            "best": list(told.best),
        }

    def _explain(self, place: Place) -> Explained:
        with self._explaining:
            return self._explainer.explain(place, self.store.nodes)

    # Calls to nodes.

    async def call(self, number: int, open_: dict[str, Any]) -> AsyncIterator[pb.CallFrame]:
        """Call the node of an agent; the frames that it answers. Raises `Problem`, also from the iterator."""
        guest = await self.guest(number, "agent")
        if guest["node"] is None:
            raise Forbidden(f"{open_['verb']} of agent {number}", f"{guest['phase']}, and nowhere yet", ("start it",))
        node, open_ = guest["node"], {**open_, "guest": number}
        call = Call()
        send = self.nodes.call(node, open_, call)
        if send is not None:
            return _to_the_end(call.frames(), lambda: send(pb.CallFrame(end=True, error="given up")))
        sessions = await self.read(self.store.rows, "session", node=node)
        holder = sessions[0]["engine"].split("/")[0] if sessions else ""
        servers = await self.read(self.store.rows, "server", name=holder)
        if self.remote is None or not servers or holder == self.name:
            raise Problem(503, "node-away", f"node {node} is not connected", retry_after_s=5)
        return self.remote(servers[0]["peers"], node, open_)

    # Tokens.

    async def caller(self, token: str) -> str | None:
        """Whose token of the API this is; None: nobody's. A token that was withdrawn works for five seconds more."""
        digest, now = certs.digest(token), asyncio.get_running_loop().time()
        known = self._known.get(digest)
        if known is None or now - known[0] > 5.0:
            rows = await self.read(self.store.rows, "token", digest=digest)
            valid = bool(rows) and rows[0]["purpose"] == certs.API
            if valid and rows[0]["expires_at"] is not None:
                valid = rows[0]["expires_at"] > await self.read(self.store.now)
            if len(self._known) > 10_000:
                self._known.clear()
            known = self._known[digest] = (now, rows[0]["name"] if valid else None)
        return known[1]

    async def make_token(self, name: str, purpose: str, lives_s: float | None) -> str:
        """A new token; it is shown this once."""
        return await self.change(lambda tx: certs.make_token(tx, name, purpose, lives_s, self.authority))

    async def tokens(self) -> list[Row]:
        """All tokens: what is known of them, which is not what they are."""
        return await self.read(self.store.rows, "token")

    async def withdraw(self, digest: str) -> None:
        """A token is worth nothing from now on; ``digest``: the first 12 characters will do."""

        def run(tx: Tx) -> None:
            found = [row["digest"] for row in tx.where("token") if row["digest"].startswith(digest)]
            if len(found) != 1 or len(digest) < 12:
                raise NotFound("token", digest)
            tx.delete("token", found[0])

        await self.change(run)
        self._known.clear()

    async def _one(self, table: str, key: Any) -> Row:
        column = "name" if table == "node" else "id"
        if column == "id" and not 0 < key <= 1 << 53:
            raise NotFound(table, key)
        rows = await self.read(self.store.rows, table, **{column: key})
        if not rows:
            raise NotFound(table, key)
        return rows[0]


async def _to_the_end(frames: AsyncIterator[pb.CallFrame], give_up: Callable[[], None]) -> AsyncIterator[pb.CallFrame]:
    """The frames; whoever stops reading before the last one gives the call up."""
    over = False
    try:
        async for frame in frames:
            over = frame.end
            yield frame
    finally:
        if not over:
            give_up()


def flow_of(name: str) -> Flow:
    """The newest version of a flow."""
    flow = FLOWS.newest(name)
    assert flow is not None
    return flow


def operations(kind: str) -> list[str]:
    """What may be asked of a guest that is there, by the names of its flows."""
    assert kind in KINDS
    ours = [name.removeprefix(f"{kind}_") for name in FLOWS.names if name.startswith(f"{kind}_")]
    return [name for name in ours if name not in ("create", "recover")]


def _holds(node: Row, body: Created) -> bool:
    devices = [milli for milli in json.loads(node["gpus"]) if milli >= max(1, body.gpu_milli)]
    enough = node["cpu_milli"] >= body.cpu_milli and node["memory_mib"] >= body.memory_mib
    return bool(enough and len(devices) >= body.gpu_count)


def _unchanged(tx: Tx, guest: int, revision: int) -> None:
    row = tx.get("guest", guest)
    if row is not None and row["revision"] != revision:
        raise Problem(412, "changed", f"guest {guest} is of revision {row['revision']}, not {revision}")


def _expired(tx: Tx, token: Row) -> bool:
    return token["expires_at"] is not None and bool(token["expires_at"] <= tx.now)


def _certify(tx: Tx, name: str, certificate: bytes, kept: int) -> None:
    """A node has a certificate; so many of those before it stay good."""
    fact = tx.get("fact", name) or {"node": name, "certificates": "[]", "facts": "{}"}
    before = json.loads(fact["certificates"])
    tx.put("fact", {**fact, "certificates": encode([*before[len(before) - kept :], certs.fingerprint(certificate)])})
