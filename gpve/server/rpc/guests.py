"""Guests of all kinds."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message
from pydantic import ValidationError

from gpve.server.access import Wish, flow_of
from gpve.server.control import whole
from gpve.server.problems import Problem
from gpve.server.rpc.service import Service
from gpve.server.rpc.shapes import KIND, body_of, guest, page_of, size_of, task, to_dict
from gpve.server.rpc.watching import watched
from gpve.server.sentences import bad_body
from gpve.tasks.errors import BadBody
from gpve.v1 import guest_pb2, guest_pb2_grpc
from gpve.v1 import resources_pb2 as pb


class _Guests(Service):
    """What the services of guests share."""

    async def _get(self, reference: guest_pb2.GuestRef, kind: str | None) -> pb.Guest:
        row = await self.control.guest(reference.id, kind)
        return guest(row, await self.control.waits_for(row))

    async def _list(self, request: guest_pb2.ListGuestsRequest, kind: str | None) -> guest_pb2.ListGuestsReply:
        wanted = {name: getattr(request, name) for name in ("project", "node", "phase") if getattr(request, name)}
        if kind is not None:
            wanted["kind"] = kind
        size = size_of(request.size)
        rows, revision = await self.control.guests(page_of(request.page), size, **wanted)
        following = str(rows[-1]["id"]) if len(rows) == size else ""
        return guest_pb2.ListGuestsReply(guests=[guest(row) for row in rows], next=following, revision=revision)

    async def _create(self, kind: str, project: str, message: Message, wish: Wish) -> pb.Task:
        flow = flow_of(f"{kind}_create")
        body: Any = body_of(flow.body, flow.name, message)
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
        if request.kind and request.kind not in KIND:
            raise BadBody("list", "kind", f"no {request.kind}; there are {', '.join(map(str, KIND))}, or 0 for all")
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
        if set(request.tables) - {"guest"}:
            raise BadBody("watch", "tables", "this is for guests alone; ClusterService.Watch has all tables")
        async for change in watched(self.control.pulse, request, ["guest"]):
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

    async def Checkpoint(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "checkpoint", wish, "agent", name=request.name)

    async def Restore(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return await self._act(request.guest, "restore", wish, "agent", name=request.name)

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
            body = Exec.model_validate(asked)
        except ValidationError as error:
            raise bad_body("exec", error) from None
        stdin = request.stdin.decode(errors="surrogateescape")
        open_ = {"verb": "exec", **body.asked(), "stdin": stdin}
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
