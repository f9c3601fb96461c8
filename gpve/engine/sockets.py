"""Nodes behind Unix sockets, one socket a node, which every engine may call. For one machine; node agents dial in."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from gpve.engine.wire import operation_to_line, outcome_from_line
from gpve.tasks.advance import Operation
from gpve.tasks.outcome import Outcome, Refused, Unknown
from gpve.world.nodes import Answer

RECONNECT_S = 0.2
LINE = 1 << 20
"""The longest line, bytes."""


class SocketNodes:
    """Connections to the nodes by name; a connection that breaks is made anew."""

    def __init__(self, sockets: Mapping[str, Path]) -> None:
        self._connections = {name: _Connection(path) for name, path in sockets.items()}

    def holds(self, node: str) -> bool:
        """As in `gpve.world.nodes.Nodes`."""
        return node in self._connections

    def names(self) -> list[str]:
        """As in `gpve.world.nodes.Nodes`."""
        return list(self._connections)

    def send(self, operation: Operation, answer: Answer) -> None:
        """As in `gpve.world.nodes.Nodes`."""
        self._connections[operation.node].send(operation, answer)

    async def open(self) -> None:
        """Begin to connect; does not wait until it has succeeded."""
        for connection in self._connections.values():
            connection.keep()

    async def close(self) -> None:
        """Disconnect."""
        for connection in self._connections.values():
            await connection.end()

    def tell(self) -> None:
        """As in `gpve.engine.engine.LiveNodes`: engines of sockets do not know each other."""


class _Connection:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, tuple[Operation, Answer]] = {}
        self._number = 0
        self._keeper: asyncio.Task[None] | None = None

    def keep(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def end(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    def send(self, operation: Operation, answer: Answer) -> None:
        loop = asyncio.get_running_loop()
        if self._writer is None:
            refusal = Refused("the node is not connected", again=True, reached=False)
            loop.call_soon(answer, operation, refusal)
            return
        self._number += 1
        self._waiting[self._number] = (operation, answer)
        self._writer.write(operation_to_line(self._number, operation))

    async def _keep(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(self._path, limit=LINE)
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            try:
                await self._listen(reader)
            except OSError:
                pass
            finally:
                self._writer.close()
                self._writer = None
                self._give_up()
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            number, outcome = outcome_from_line(line)
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                operation, answer = waiting
                answer(operation, outcome)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, {}
        lost: Outcome = Unknown("the connection to the node broke")
        for operation, answer in waiting.values():
            answer(operation, lost)
