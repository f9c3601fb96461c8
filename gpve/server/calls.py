"""Calls to nodes that are no operations: logs, exec, status. They alter nothing that the store knows of."""

import asyncio
from collections.abc import AsyncIterator

from gpve.server.problems import Problem
from gpve.v1 import node_pb2 as pb

ROOM = 256
"""Frames that wait for a slow reader; beyond them the call is broken off."""
STATUS = {"not-found": (404, "not-found"), "precondition": (409, "not-now"), "invalid": (422, "bad-field")}


class Call:
    """The answers to one call, in the server's loop."""

    def __init__(self) -> None:
        self._frames: asyncio.Queue[pb.CallFrame] = asyncio.Queue()
        self._over = False

    def arrived(self, frame: pb.CallFrame) -> None:
        """A frame came."""
        if self._over:
            return
        if self._frames.qsize() >= ROOM and not frame.end:
            frame = lost("the reader is too slow; it may go on from where it stood")
        self._over = frame.end
        self._frames.put_nowait(frame)

    async def raw(self) -> AsyncIterator[pb.CallFrame]:
        """All frames, to the last."""
        while True:
            frame = await self._frames.get()
            yield frame
            if frame.end:
                return

    async def frames(self) -> AsyncIterator[pb.CallFrame]:
        """All frames, to the last. Raises the `Problem` that ended it."""
        async for frame in self.raw():
            if frame.end and frame.error:
                status, kind = STATUS.get(frame.error_kind, (503, "node-away"))
                raise Problem(status, kind, frame.error)
            yield frame


def lost(why: str) -> pb.CallFrame:
    """The last frame of a call that broke."""
    return pb.CallFrame(end=True, error=why, error_kind="unavailable")
