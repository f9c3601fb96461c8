"""The cluster, its nodes and its tasks."""

from collections.abc import AsyncIterator
from typing import Any

from gpve.server import watch
from gpve.server.access import Wish
from gpve.server.rpc.service import Service
from gpve.server.rpc.shapes import node, page_of, size_of, task
from gpve.server.rpc.watching import watched
from gpve.tasks.errors import BadBody
from gpve.v1 import cluster_pb2, cluster_pb2_grpc
from gpve.v1 import resources_pb2 as pb


class ClusterService(Service, cluster_pb2_grpc.ClusterServiceServicer):
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

    async def CloseNode(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return task(await self.control.members.close_node(request.name, wish))

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
        async for change in watched(self.control.pulse, request, list(request.tables) or list(watch.TABLES)):
            yield change


class TaskService(Service, cluster_pb2_grpc.TaskServiceServicer):
    """As the protocol says."""

    async def Get(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return task(await self.control.task(request.id))

    async def List(self, request: Any, wish: Wish) -> Any:  # noqa: N802
        """As the protocol says."""
        names = ("status", "project", "target")
        wanted = {name: getattr(request, name) for name in names if getattr(request, name)}
        size = size_of(request.size)
        rows = await self.control.tasks(page_of(request.page), size, **wanted)
        following = str(rows[-1]["id"]) if len(rows) == size else ""
        return cluster_pb2.ListTasksReply(tasks=[task(row) for row in rows], next=following)

    async def Cancel(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        if len(request.reason) > 191 or not request.reason.isprintable():
            raise BadBody("cancel", "reason", "at most 191 printable characters are wanted")
        return task(await self.control.cancel(request.id, wish.actor, request.reason))

    async def Resume(self, request: Any, wish: Wish) -> pb.Task:  # noqa: N802
        """As the protocol says."""
        return task(await self.control.resume(request.id))

    async def Follow(self, request: Any, wish: Wish) -> AsyncIterator[pb.Task]:  # noqa: N802
        """As the protocol says."""
        async for row in watch.task(self.control.pulse, request.id):
            if row is not None:
                yield task(row)
