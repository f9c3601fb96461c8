"""The gRPC API: the same use cases as HTTP's, in messages."""

import inspect
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from pydantic import BaseModel, ValidationError

from gpve.model.kinds import KINDS
from gpve.server import watch
from gpve.server.access import Wish, flow_of
from gpve.server.control import Control, whole
from gpve.server.metrics import METRICS
from gpve.server.problems import Problem, problem_of
from gpve.tasks.errors import BadBody
from gpve.tasks.flow import Body
from gpve.tasks.ledger import Row
from gpve.v1 import cluster_pb2, cluster_pb2_grpc, guest_pb2, guest_pb2_grpc
from gpve.v1 import resources_pb2 as pb

LOG = logging.getLogger(__name__)
KIND = {pb.KIND_VM: "vm", pb.KIND_VCLUSTER: "vcluster", pb.KIND_AGENT: "agent"}
NUMBER = {name: number for number, name in KIND.items()}


def add_services(server: Any, control: Control) -> None:
    """Serve all of them."""
    guest_pb2_grpc.add_GuestServiceServicer_to_server(_told(GuestService(control)), server)
    guest_pb2_grpc.add_VClusterServiceServicer_to_server(_told(VClusterService(control)), server)
    guest_pb2_grpc.add_AgentServiceServicer_to_server(_told(AgentService(control)), server)
    cluster_pb2_grpc.add_ClusterServiceServicer_to_server(_told(ClusterService(control)), server)
    cluster_pb2_grpc.add_TaskServiceServicer_to_server(_told(TaskService(control)), server)


class _Service:
    """``_wish`` is set for each call by the wrapper of `_told`."""

    def __init__(self, control: Control) -> None:
        self.control = control


def _told(service: Any) -> Any:
    """The service with each method behind a token, its errors told as problems, its calls counted."""
    for name in dir(type(service)):
        if name[0].isupper() and name in vars(type(service)):
            method = getattr(service, name)
            wrap = _streamed if inspect.isasyncgenfunction(method) else _answered
            setattr(service, name, wrap(service.control, f"{type(service).__name__}/{name}", method))
    return service


def _answered(control: Control, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        began, answer, failed = time.time_ns(), None, False
        try:
            wish = await _wish(control, name, context)
            answer = await method(request, wish)
            METRICS.calls.labels(name, "OK").inc()
            return answer
        except Exception as error:
            problem = problem_of(error)
            failed = problem.status >= 500
            await _abort(name, context, error, problem)
        finally:
            _trace(control, name, context, began, answer.id if isinstance(answer, pb.Task) else None, failed)

    return call


def _streamed(control: Control, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        began, failed = time.time_ns(), False
        try:
            wish = await _wish(control, name, context)
            async for message in method(request, wish):
                yield message
            METRICS.calls.labels(name, "OK").inc()
        except Exception as error:
            problem = problem_of(error)
            failed = problem.status >= 500
            await _abort(name, context, error, problem)
        finally:
            _trace(control, name, context, began, None, failed)

    return call


def _trace(control: Control, name: str, context: Any, began_ns: int, task: int | None, failed: bool) -> None:
    if control.tracing is not None:
        said = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        service, _, method = name.partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": f"gpve.v1.{service}", "rpc.method": method}
        control.tracing.request(f"gpve.v1.{name}", began_ns, time.time_ns(), said, attributes, failed, task)


async def _abort(name: str, context: Any, error: Exception, problem: Problem) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    request = uuid.uuid4().hex
    if problem.status == 500:
        LOG.error("a defect in %s", name, exc_info=error, extra={"request": request})
    METRICS.calls.labels(name, problem.code.name).inc()
    document = json.dumps(problem.document(request)).encode()
    await context.abort(problem.code, str(problem), (("problem-bin", document),))


async def _wish(control: Control, name: str, context: Any) -> Wish:
    said = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    if name == "ClusterService/Join":
        return Wish("nobody")
    token = said.get("authorization", "")
    actor = await control.tokens.caller(token.removeprefix("Bearer ")) if token.startswith("Bearer ") else None
    if actor is None:
        raise Problem(401, "unauthenticated", "say authorization: Bearer TOKEN, with a token that is valid")
    match = said.get("if-match")
    if match is not None and not match.strip('"').isdigit():
        raise Problem(422, "bad-field", "if-match: a revision is wanted", [("if-match", "a revision is wanted")])
    return Wish(actor, "default", said.get("idempotency-key"), None if match is None else int(match.strip('"')))


def to_dict(message: Message) -> dict[str, Any]:
    """The fields that are set, by name; what is absent is absent."""
    told: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            told[field.name] = dict(value)
        elif field.type == field.TYPE_MESSAGE:
            many = field.is_repeated
            told[field.name] = [to_dict(one) for one in value] if many else to_dict(value)
        else:
            told[field.name] = list(value) if field.is_repeated else value
    # A message that is there and empty is there.
    for known in message.DESCRIPTOR.fields:
        if known.type == known.TYPE_MESSAGE and not known.is_repeated and message.HasField(known.name):
            told.setdefault(known.name, {})
    return told


def _body(model: type[Body], flow: str, message: Message) -> Body:
    try:
        return model.model_validate(to_dict(message))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadBody(flow, ".".join(map(str, first["loc"])) or "body", first["msg"]) from None


def guest(row: Row, waits_for: str = "") -> pb.Guest:
    """A guest."""
    return pb.Guest(
        id=row["id"],
        kind=NUMBER[row["kind"]],
        name=row["name"],
        project=row["project"],
        phase=row["phase"],
        task=row["task"] or 0,
        node=row["node"] or "",
        spec_json=row["spec"],
        revision=row["revision"],
        waits_for=waits_for,
    )


def task(row: Row) -> pb.Task:
    """A task."""
    bad = row["poison"] is not None
    return pb.Task(
        id=row["id"],
        flow=row["flow"],
        project=row["project"],
        actor=row["actor"],
        status="unreadable" if bad else row["status"],
        target=row["target"] or "",
        step=row["step"] or "",
        progress=row["progress"],
        reason=(row["poison"] if bad else row["reason"]) or "",
        submitted_at=row["submitted_at"],
        closed_at=row["closed_at"] or 0.0,
        committed=row["committed"],
        revision=row.get("revision", 0),
    )


def node(row: Row) -> pb.Node:
    """A node."""
    return pb.Node(
        name=row["name"],
        open=row["open"],
        alive=row["alive"],
        cpu_milli=row["cpu_milli"],
        memory_mib=row["memory_mib"],
        gpus=json.loads(row["gpus"]),
        gpu_model=row["gpu_model"],
        used_cpu_milli=row["used_cpu_milli"],
        used_memory_mib=row["used_memory_mib"],
        used_gpu_milli=json.loads(row["used_gpu_milli"]),
        labels=json.loads(row["labels"]),
        revision=row["revision"],
    )


def _page(text: str) -> int | None:
    if not text:
        return None
    if not text.isdigit() or len(text) > 15:
        raise Problem(422, "bad-field", "page: not the `next` of a page", [("page", "not the `next` of a page")])
    return int(text)


def _size(size: int) -> int:
    if not 0 <= size <= 1000:
        raise Problem(422, "bad-field", "size: 1 to 1000 are wanted", [("size", "1 to 1000 are wanted")])
    return size or 100


class _Guests(_Service):
    """What the services of guests share."""

    async def _get(self, reference: guest_pb2.GuestRef, kind: str | None) -> pb.Guest:
        row = await self.control.guest(reference.id, kind)
        return guest(row, await self.control.waits_for(row))

    async def _list(self, request: guest_pb2.ListGuestsRequest, kind: str | None) -> guest_pb2.ListGuestsReply:
        wanted = {name: getattr(request, name) for name in ("project", "node", "phase") if getattr(request, name)}
        if kind is not None:
            wanted["kind"] = kind
        size = _size(request.size)
        rows, revision = await self.control.guests(_page(request.page), size, **wanted)
        following = str(rows[-1]["id"]) if len(rows) == size else ""
        return guest_pb2.ListGuestsReply(guests=[guest(row) for row in rows], next=following, revision=revision)

    async def _create(self, kind: str, project: str, message: Message, wish: Wish) -> pb.Task:
        flow = flow_of(f"{kind}_create")
        body: Any = _body(flow.body, flow.name, message)
        return task(
            await self.control.create(kind, body, Wish(wish.actor, project or "default", wish.key, wish.revision))
        )

    async def _act(
        self, reference: guest_pb2.GuestRef, operation: str, wish: Wish, kind: str | None = None, **arguments: Any
    ) -> pb.Task:
        """An operation by its name in the flows; where kinds differ in the name, the first one that there is."""
        row = await self.control.guest(reference.id, kind)
        names = [name for name in operation.split("|") if _there_is(row["kind"], name)]
        if not names:
            wanted = operation.split("|")[0]
            raise Problem(409, "not-now", f"a {row['kind']} has no operation {wanted!r}")
        return task(await self.control.act(row["kind"], names[0], reference.id, arguments, wish))


def _there_is(kind: str, operation: str) -> bool:
    from gpve.tasks.flows import FLOWS

    return FLOWS.newest(f"{kind}_{operation}") is not None


class GuestService(_Guests, guest_pb2_grpc.GuestServiceServicer):
    """As the protocol says."""

    async def Create(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        which = request.WhichOneof("spec")
        if which is None:
            raise BadBody("create", "spec", "one of vm, vcluster, agent is wanted")
        return await self._create(which, request.project, getattr(request, which), wish)

    async def Get(self, request: Any, wish: Wish) -> pb.Guest:  # noqa: N802
        """As the protocol says."""
        return await self._get(request, None)

    async def List(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        return await self._list(request, KIND.get(request.kind))

    async def Update(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "resize", wish, **_amounts(request))

    async def Delete(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "delete", wish)

    async def Start(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "start", wish)

    async def Stop(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "stop" if request.force else "shutdown|stop", wish)

    async def Restart(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "reboot|restart", wish)

    async def Pause(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "pause", wish)

    async def Resume(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "resume", wish)

    async def Migrate(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        to = {"to": request.to} if request.to else {}
        return await self._act(request.guest, "migrate", wish, **to)

    async def Clone(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "clone", wish, name=request.name)

    async def Snapshot(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "snapshot|checkpoint", wish, name=request.name)

    async def Rollback(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "rollback|restore", wish, name=request.name)

    async def Explain(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        told = await self.control.explain(request.id)
        return guest_pb2.Explanation(
            sentence=told["sentence"], nodes=told["nodes"], nearest=told["nearest"] or "", policy=told["policy"]
        )

    async def WatchStatus(self, request: Any, wish: Wish) -> AsyncIterator[pb.Change]:  # noqa: N802
        """As the protocol says."""
        async for change in _watched(self.control.pulse, request, ["guest"]):
            yield change


class VClusterService(_Guests, guest_pb2_grpc.VClusterServiceServicer):
    """As the protocol says."""

    async def Create(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._create("vcluster", request.project, request.vcluster, wish)

    async def Get(self, request: Any, wish: Wish) -> pb.Guest:  # noqa: N802
        """As the protocol says."""
        return await self._get(request, "vcluster")

    async def List(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        return await self._list(request, "vcluster")

    async def Delete(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "delete", wish, "vcluster")

    async def GetKubeconfig(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        row = await self.control.guest(request.id, "vcluster")
        raise Problem(409, "not-now", f"vcluster {row['id']} runs on the simulated executor, which has no API server")

    async def Scale(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "resize", wish, "vcluster", **_amounts(request))

    async def Sleep(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "sleep", wish, "vcluster")

    async def Wake(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "wake", wish, "vcluster")

    async def Upgrade(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "upgrade", wish, "vcluster", version=request.version)


class AgentService(_Guests, guest_pb2_grpc.AgentServiceServicer):
    """As the protocol says."""

    async def Create(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._create("agent", request.project, request.agent, wish)

    async def Get(self, request: Any, wish: Wish) -> pb.Guest:  # noqa: N802
        """As the protocol says."""
        return await self._get(request, "agent")

    async def List(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        return await self._list(request, "agent")

    async def Delete(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request, "delete", wish, "agent")

    async def Logs(self, request: Any, wish: Wish) -> AsyncIterator[Any]:  # noqa: N802
        """As the protocol says."""
        tail = max(0, request.tail_bytes)
        open_ = {"verb": "logs", "follow": request.follow, "tail_bytes": tail}
        async for frame in await self.control.call(request.guest.id, open_):
            yield _output(frame)

    async def Exec(self, request: Any, wish: Wish) -> AsyncIterator[Any]:  # noqa: N802
        """As the protocol says."""
        from gpve.server.http.streams import Exec

        asked = {name: value for name, value in to_dict(request).items() if name not in ("guest", "stdin")}
        try:
            body: BaseModel = Exec.model_validate(asked)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadBody("exec", ".".join(map(str, first["loc"])) or "body", first["msg"]) from None
        stdin = request.stdin.decode(errors="surrogateescape")
        open_ = {"verb": "exec", **body.model_dump(), "stdin": stdin}
        async for frame in await self.control.call(request.guest.id, open_):
            yield _output(frame)

    async def Status(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        data = await whole(await self.control.call(request.id, {"verb": "status"}))
        return guest_pb2.AgentStatus(json=data.decode())


def _output(frame: Any) -> Any:
    told = guest_pb2.Output(stream=frame.stream, data=frame.data)
    if frame.HasField("exit_code"):
        told.exit_code = frame.exit_code
    return told


def _amounts(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ("cpu_milli", "memory_mib") if request.HasField(name)}


class ClusterService(_Service, cluster_pb2_grpc.ClusterServiceServicer):
    """As the protocol says."""

    async def Status(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        return cluster_pb2.ClusterStatus(**await self.control.status())

    async def Join(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        certificate, servers = await self.control.members.join(request.token, request.name, request.csr)
        ca = self.control.authority.certificate
        return cluster_pb2.JoinReply(certificate=certificate, ca=ca, servers=servers)

    async def Leave(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        await self.control.members.leave(request.name)
        return cluster_pb2.LeaveReply()

    async def GetUsage(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        told = await self.control.usage(request.name)
        guests = {int(guest): cluster_pb2.GuestUsage(**use) for guest, use in told.pop("guests").items()}
        return cluster_pb2.Usage(**told, guests=guests)

    async def ListNodes(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        revision = await self.control.access.read(self.control.store.revision)
        rows = await self.control.access.read(self.control.store.rows, "node")
        return cluster_pb2.ListNodesReply(nodes=[node(row) for row in rows], revision=revision)

    async def DrainNode(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        stay = await self.control.members.would_stay(request.name)
        if request.dry_run:
            return cluster_pb2.DrainReply(blockers=stay)
        return cluster_pb2.DrainReply(task=task(await self.control.members.drain(request.name, wish)), blockers=stay)

    async def OpenNode(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return task(await self.control.members.open_node(request.name, wish))

    async def GetQuota(self, request: Any, wish: Wish) -> pb.Quota:  # noqa: N802
        """As the protocol says."""
        return pb.Quota(**await self.control.projects.quota(request.project or "default"))

    async def SetQuota(self, request: Any, wish: Wish) -> pb.Quota:  # noqa: N802
        """As the protocol says."""
        limits: dict[str, int | None] = {}
        for name in ("guests_limit", "cpu_milli_limit", "memory_mib_limit"):
            limits[name] = getattr(request, name) if request.HasField(name) else None
            if limits[name] is not None and not 0 <= getattr(request, name) <= 1 << 53:
                raise BadBody("quota", name, "0 or more are wanted")
        return pb.Quota(**await self.control.projects.limit(request.project or "default", limits))

    async def GetPolicies(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        return cluster_pb2.Policies(**await self.control.projects.policies())

    async def SetPolicy(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        return cluster_pb2.Policies(**await self.control.projects.choose(request.project, request.policy or None))

    async def Watch(self, request: Any, wish: Wish) -> AsyncIterator[pb.Change]:  # noqa: N802
        """As the protocol says."""
        unknown = set(request.tables) - set(watch.TABLES)
        if unknown:
            raise BadBody("watch", "tables", f"no {sorted(unknown)[0]!r}; there are {', '.join(watch.TABLES)}")
        async for change in _watched(self.control.pulse, request, list(request.tables) or list(watch.TABLES)):
            yield change


async def _watched(pulse: watch.Pulse, request: Any, tables: list[str]) -> AsyncIterator[pb.Change]:
    async for change, _ in watch.changes(pulse, request.revision or None, tables):
        if change is not None:
            yield pb.Change(
                revision=change["revision"],
                table=change["table"],
                key=json.dumps(change["key"]),
                data_json="" if change["row"] is None else json.dumps(change["row"]),
            )


class TaskService(_Service, cluster_pb2_grpc.TaskServiceServicer):
    """As the protocol says."""

    async def Get(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return task(await self.control.task(request.id))

    async def List(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        names = ("status", "project", "target")
        wanted = {name: getattr(request, name) for name in names if getattr(request, name)}
        size = _size(request.size)
        rows = await self.control.tasks(_page(request.page), size, **wanted)
        following = str(rows[-1]["id"]) if len(rows) == size else ""
        return cluster_pb2.ListTasksReply(tasks=[task(row) for row in rows], next=following)

    async def Cancel(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        if len(request.reason) > 191 or not request.reason.isprintable():
            raise BadBody("cancel", "reason", "at most 191 printable characters are wanted")
        return task(await self.control.cancel(request.id, request.reason or f"by {wish.actor}"))

    async def Resume(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return task(await self.control.resume(request.id))

    async def Follow(self, request: Any, wish: Wish) -> AsyncIterator[pb.Task]:  # noqa: N802
        """As the protocol says."""
        async for row in watch.task(self.control.pulse, request.id):
            if row is not None:
                yield task(row)


assert set(NUMBER) == set(KINDS)
