"""A node's connection: whatever its servers do, it is there again once one of them serves."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from gpve.node import session
from gpve.node.facts import Facts
from gpve.node.identity import Identity
from gpve.node.journal import Disk, Journal
from gpve.node.node import Node
from gpve.node.session import PROTOCOL, Link
from gpve.node.simulated import Simulated
from gpve.v1 import node_pb2 as pb
from gpve.v1 import node_pb2_grpc


class Young(Identity):
    """Its certificate need not be renewed: there is none."""

    due = False  # type: ignore[assignment]


class Plain(Link):
    """Without TLS, which is not what is tried here."""

    def _channel(self) -> Any:
        return grpc.aio.insecure_channel(self._server())


class Server(node_pb2_grpc.NodeServiceServicer):
    """Serves sessions as it is told."""

    def __init__(self, serve: Callable[[AsyncIterator[pb.FromNode], Any], Any]) -> None:
        self.serve, self.sessions = serve, 0

    async def Session(self, request: AsyncIterator[pb.FromNode], context: Any) -> AsyncIterator[pb.ToNode]:  # noqa: N802
        self.sessions += 1
        yield pb.ToNode(welcome=pb.Welcome(version="1", protocol=PROTOCOL, lease_ms=30))
        await self.serve(request, context)


DICE = random.Random(1)


async def abort(request: AsyncIterator[pb.FromNode], context: Any) -> None:
    await asyncio.sleep(DICE.uniform(0.0, 0.01))
    await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")


async def hang_up(request: AsyncIterator[pb.FromNode], context: Any) -> None:
    await asyncio.sleep(DICE.uniform(0.0, 0.01))


async def read_on(request: AsyncIterator[pb.FromNode], context: Any) -> None:
    async for _ in request:
        pass


async def among(address: str, serve: Any) -> tuple[grpc.aio.Server, Server]:
    server, servicer = grpc.aio.server(), Server(serve)
    node_pb2_grpc.add_NodeServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    return server, servicer


@pytest.mark.parametrize("serve", [abort, hang_up])
def test_a_stream_that_breaks_while_it_is_written_to_is_made_anew(serve: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(session, "FIRST_WAIT_S", 0.001)

    async def run() -> None:
        address = f"unix:{tmp_path}/server.sock"
        journal = Journal(Disk(":memory:"), "a")
        node = Node("a", journal, {"": Simulated(journal, 0.0)})
        link = Plain(node, Young("a", b"", b"", b"", (address,)), "boot", Facts(1000, 1024))
        running = asyncio.create_task(link.run())

        async def chatter() -> None:
            while True:
                link.seen(1)
                await asyncio.sleep(0)

        talking = asyncio.create_task(chatter())
        server, servicer = await among(address, serve)
        while servicer.sessions < 300:
            await asyncio.sleep(0.05)
            assert not running.done(), running
        await server.stop(0)
        server, servicer = await among(address, read_on)
        while not servicer.sessions:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(link.connected.wait(), 10.0)
        for task in (running, talking):
            task.cancel()
        await asyncio.wait([running, talking])
        await server.stop(0)

    asyncio.run(asyncio.wait_for(run(), 60.0))
