"""The other servers: hints that something was written, and calls to nodes whose sessions they hold."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from gpve.server.authority import SERVER, Authority, Identity
from gpve.server.calls import STATUS
from gpve.server.control import Control
from gpve.server.problems import Problem
from gpve.v1 import node_pb2 as pb
from gpve.v1 import node_pb2_grpc

LOG = logging.getLogger(__name__)
TOGETHER_S = 0.01
"""How long a hint waits for others to share a message with."""
LOOK_S = 5.0
"""How often to look which servers there are."""


class Peers:
    """Channels to the other servers, opened when they are needed."""

    def __init__(self, control: Control, ca: Authority, identity: Identity) -> None:
        self._control = control
        self._credentials = grpc.ssl_channel_credentials(ca.certificate, identity.key, identity.certificate)
        self._channels: dict[str, Any] = {}
        self._others: list[str] = []
        self._looked = float("-inf")
        self._hinting: asyncio.Task[None] | None = None
        self._again = False

    def hint(self) -> None:
        """Tell the others that something was written for them. Soon, and once for all that comes together."""
        self._again = True
        if self._hinting is None or self._hinting.done():
            self._hinting = asyncio.create_task(self._hint())

    async def _hint(self) -> None:
        while self._again:
            await asyncio.sleep(TOGETHER_S)
            self._again = False
            for address in await self._addresses():
                try:
                    stub = node_pb2_grpc.PeerServiceStub(self._channel(address))
                    await stub.Hint(pb.HintRequest(), timeout=1.0)
                except grpc.RpcError as error:
                    # It looks by itself every second.
                    LOG.debug("server at %s was not reached: %s", address, error)

    async def _addresses(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        if now - self._looked > LOOK_S:
            self._looked = now
            try:
                self._others = await self._control.members.others()
            except Exception as error:  # the store is away: those of before will do
                LOG.debug("other servers: %s", error)
        return self._others

    def _channel(self, address: str) -> Any:
        if address not in self._channels:
            options = [("grpc.ssl_target_name_override", SERVER)]
            self._channels[address] = grpc.aio.secure_channel(address, self._credentials, options)
        return self._channels[address]

    async def call(self, address: str, node: str, open_: dict[str, Any]) -> AsyncIterator[pb.CallFrame]:
        """Call a node by the server that holds its session. Raises `Problem`."""
        stub = node_pb2_grpc.PeerServiceStub(self._channel(address))
        stream = stub.Call()
        try:
            await stream.write(pb.CallFrame(node=node, open_json=json.dumps(open_)))
            async for frame in stream:
                if frame.end and frame.error:
                    status, kind = STATUS.get(frame.error_kind, (503, "node-away"))
                    raise Problem(status, kind, frame.error)
                yield frame
                if frame.end:
                    return
        except grpc.RpcError as error:
            raise Problem(503, "node-away", f"the server of node {node} does not answer") from error
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Hang up."""
        if self._hinting is not None:
            self._hinting.cancel()
        for channel in self._channels.values():
            await channel.close()
