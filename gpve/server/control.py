"""The use cases: what anybody may ask of a cluster. HTTP and gRPC translate, nothing else."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic import ValidationError

from gpve import __version__
from gpve.engine.engine import Engine
from gpve.model.kinds import KINDS
from gpve.model.phases import INTERNAL
from gpve.server.access import Access, Wish, flow_of
from gpve.server.audits import Audits
from gpve.server.authority import Authority
from gpve.server.calls import Call
from gpve.server.members import Members
from gpve.server.policies import Policies
from gpve.server.problems import Problem
from gpve.server.projects import Projects
from gpve.server.sentences import bad_body
from gpve.server.sessions import SessionNodes
from gpve.server.sizes import Sizes
from gpve.server.tokens import Tokens
from gpve.server.tracing import Tracing
from gpve.server.watch import Pulse
from gpve.server.wishes import check_created, check_filters, check_guest_name, named_in
from gpve.store.sql import SqlStore
from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.flow import Place
from gpve.tasks.flows import FLOWS
from gpve.tasks.flows.create import Created
from gpve.tasks.ledger import Row, Tx
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import cancel, resume
from gpve.tasks.worker import Rules
from gpve.v1 import node_pb2 as pb
from gpve.world.placement import Explained, SchedulerPlacer
from gpve.world.store import StoreDown

Remote = Callable[[str, str, dict[str, Any]], AsyncIterator[pb.CallFrame]]
LONGEST_REASON = 191
"""As long as the store's texts may be."""


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
        policies: Policies,
        audits: Audits,
    ) -> None:
        self.name, self.store, self.nodes, self.engine, self.rules = name, store, nodes, engine, rules
        self.authority = authority
        self.access = Access(store, engine)
        self.members = Members(name, self.access, authority, nodes)
        self.policies = policies
        self.audits = audits
        self.tokens = Tokens(self.access, authority)
        self.projects = Projects(self.access, policies)
        self.sizes = Sizes(self.access)
        self.pulse = Pulse(self.access)
        self.remote: Remote | None = None
        """How nodes are reached whose sessions other servers hold."""
        self.tracing: Tracing | None = None
        """Where requests and tasks are told to, if anywhere."""
        self.ready = False
        """Whether the scheduler is warm and the engine runs."""
        self._explainer = SchedulerPlacer(policies.default, chosen=policies.chosen)
        self._explaining = threading.Lock()

    # Tasks.

    async def create(self, kind: str, body: Created, wish: Wish) -> Row:
        """Submit a guest's creation."""
        check_created(kind, body)
        await self.sizes.check(kind, body)
        try:
            return await self.access.submit(f"{kind}_create", body, wish)
        except NotFound as error:
            raise named_in({"node": body.node, "networks": body.networks}, error) from error

    async def act(self, kind: str, operation: str, guest: int, arguments: dict[str, Any], wish: Wish) -> Row:
        """Submit an operation on a guest of this kind; its project is the guest's own."""
        row = await self.guest(guest, kind)
        flow = flow_of(f"{kind}_{operation}")
        try:
            body = flow.body.model_validate({"guest": guest, **arguments})
        except ValidationError as error:
            raise bad_body(flow.name, error) from None
        if operation == "clone":
            check_guest_name(arguments["name"])
        try:
            return await self.access.submit(flow.name, body, Wish(wish.actor, row["project"], wish.key, wish.revision))
        except NotFound as error:
            raise named_in(arguments, error) from error

    async def task(self, number: int) -> Row:
        """A task's row. Raises `NotFound`."""
        return await self.access.one("task", number)

    async def tasks(self, after: int | None, limit: int, **equal: Any) -> list[Row]:
        """Tasks, the newest first, behind number ``after``."""
        check_filters(equal)
        rows, _ = await self.access.read(self.store.page, "task", after, limit, newest=True, **equal)
        return rows

    async def cancel(self, number: int, actor: str, reason: str) -> Row:
        """Ask for the end of a task; its log says who did, and why if that is said."""
        told = f"by {actor}: {reason}" if reason else f"by {actor}"
        row = await self.access.change(lambda tx: cancel(tx, number, told[:LONGEST_REASON]))
        self.engine.hint()
        return row

    async def resume(self, number: int) -> Row:
        """Give a stuck task a new deadline."""
        row = await self.access.change(lambda tx: resume(tx, number))
        self.engine.hint()
        return row

    # Guests.

    async def guest(self, number: int, kind: str | None = None) -> Row:
        """A guest's row. Raises `NotFound`."""
        if not 0 < number <= 1 << 53:
            raise NotFound(kind or "guest", number)
        rows = await self.access.read(self.store.rows, "guest", id=number)
        if not rows or kind not in (None, rows[0]["kind"]):
            raise NotFound(kind or "guest", number)
        return rows[0]

    async def guests(self, after: int | None, limit: int, **equal: Any) -> tuple[list[Row], int]:
        """Guests by number, behind number ``after``; and the revision from which to watch."""
        check_filters(equal)
        return await self.access.read(self.store.page, "guest", after, limit, **equal)

    async def waits_for(self, guest: Row) -> str:
        """Why a guest is not placed yet; empty if that is not what it is about."""
        if guest["task"] is None:
            return ""
        rows = await self.access.read(self.store.rows, "task", id=guest["task"])
        return str(rows[0]["reason"] or "") if rows else ""

    # Nodes.

    # The cluster.

    async def forget_decisions(self) -> None:
        """Forget calls of the scheduler that lie before what the change log still has."""
        gone = await self.access.read(self.store.compacted_decisions, 1000)
        if gone:

            def run(tx: Tx) -> None:
                for key in gone:
                    tx.delete("decision", *key)

            await self.access.change(run)

    async def status(self) -> dict[str, Any]:
        """The cluster in short."""
        alive = await self.access.read(self.store.counts, "node", "alive")
        tasks = await self.access.read(self.store.counts, "task", "status")
        alarms = await self.access.read(self.store.rows, "alarm", limit=100)
        return {
            "version": __version__,
            "revision": await self.access.read(self.store.revision),
            "nodes": sum(alive.values()),
            "nodes_alive": alive.get(True, 0),
            "guests": sum((await self.access.read(self.store.counts, "guest", "phase")).values()),
            "tasks": {status: count for status, count in tasks.items() if status not in CLOSED},
            "servers": sorted(await self.members.alive()),
            "alarms": [f"task {row['task']}: {row['text']}" for row in alarms],
        }

    async def not_ready(self) -> str:
        """Why this server should not be asked; empty: it may be."""
        if not self.ready:
            return "starting"
        try:
            await asyncio.wait_for(self.access.read(self.store.revision), 2.0)
        except (StoreDown, TimeoutError):
            return "the database does not answer"
        return ""

    async def explain(self, number: int) -> dict[str, Any]:
        """Why a guest is where it is, or why it waits: what every node says of it now."""
        guest = await self.guest(number)
        spec = json.loads(guest["spec"])
        task = await self.access.read(self.store.rows, "task", id=guest["task"]) if guest["task"] is not None else []
        only = json.loads(task[0]["body"]).get("node") if task else None
        place = Place(number, spec, "placement", only, (), guest["kind"], guest["project"])
        told = await self.access.read(self._explain, place)
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
            "policy": self.policies.chosen(place).name,
            "nodes": told.counts,
            "nearest": told.nearest,
            "best": list(told.best),
        }

    def _explain(self, place: Place) -> Explained:
        with self._explaining:
            return self._explainer.explain(place, self.store.nodes)

    # Calls to nodes.

    async def usage(self, node: str) -> dict[str, Any]:
        """What a node says that it uses now: cpu_milli, memory_mib, and the same of its guests that run for real."""
        await self.access.one("node", node)
        told: dict[str, Any] = json.loads(await whole(await self.call_node(node, {"verb": "usage"})))
        return told

    async def call(self, number: int, open_: dict[str, Any]) -> AsyncIterator[pb.CallFrame]:
        """Call the node of an agent; the frames that it answers. Raises `Problem`, also from the iterator."""
        guest = await self.guest(number, "agent")
        if guest["node"] is None:
            raise Forbidden(f"{open_['verb']} of agent {number}", f"{guest['phase']}, and nowhere yet", ("start",))
        return await self.call_node(guest["node"], {**open_, "guest": number})

    async def call_node(self, node: str, open_: dict[str, Any]) -> AsyncIterator[pb.CallFrame]:
        """Call a node, through the server that holds its session. Raises `Problem`, also from the iterator."""
        call = Call()
        send = self.nodes.call(node, open_, call)
        if send is not None:
            return _to_the_end(call.frames(), lambda: send(pb.CallFrame(end=True, error="given up")))
        sessions = await self.access.read(self.store.rows, "session", node=node)
        holder = sessions[0]["engine"].split("/")[0] if sessions else ""
        servers = await self.access.read(self.store.rows, "server", name=holder)
        if self.remote is None or not servers or holder == self.name:
            raise Problem(503, "node-away", f"node {node} is not connected", retry_after_s=5)
        return self.remote(servers[0]["peers"], node, open_)


async def whole(frames: AsyncIterator[pb.CallFrame]) -> bytes:
    """The data of all frames."""
    return b"".join([frame.data async for frame in frames])


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


def operations(kind: str) -> list[str]:
    """What may be asked of a guest that is there, by the names of its flows."""
    assert kind in KINDS
    ours = [name.removeprefix(f"{kind}_") for name in FLOWS.names if name.startswith(f"{kind}_")]
    return [name for name in ours if name not in INTERNAL]
