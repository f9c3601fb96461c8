"""Checkpoints of agents: what was in an agent's workspace at one moment, as archives in the node's directory."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gpve.node.executor import Cannot
from gpve.runtime.v1 import runtime_pb2 as pb

COPY_S = 600.0
CHUNK = 256 * 1024


class Checkpoints:
    """Below ``directory``: a directory for each guest, in it an archive (tar) for each checkpoint."""

    def __init__(self, daemon: Any, directory: Path) -> None:
        self._daemon, self._directory = daemon, directory

    def _file(self, guest: int, name: str) -> Path:
        return self._directory / str(guest) / f"{name}.tar"

    async def take(self, guest: int, agent: str, name: str) -> None:
        """Keep what is in the workspace of ``agent`` now. One that is there already was taken by this very command.

        Raises `grpc.RpcError`, and OSError where there is no room.
        """
        file = self._file(guest, name)
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = file.with_suffix(".part")
        with part.open("wb") as out:
            async for chunk in self._daemon.CopyOut(pb.CopyOutRequest(id=agent, path=""), timeout=COPY_S):
                out.write(chunk.tar)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)

    async def put_back(self, guest: int, agent: str, name: str, key: str) -> None:
        """What was in the workspace then takes the place of what is in it. Raises `Cannot`, `grpc.RpcError`."""
        file = self._file(guest, name)
        if not file.exists():
            raise Cannot(f"checkpoint {name} of agent {guest} is not on this node")

        async def messages() -> AsyncIterator[pb.CopyInRequest]:
            yield pb.CopyInRequest(begin=pb.CopyInRequest.Begin(request_id=key, id=agent, replace=True))
            with file.open("rb") as source:
                while data := source.read(CHUNK):
                    yield pb.CopyInRequest(tar=data)

        await self._daemon.CopyIn(messages(), timeout=COPY_S)

    def drop(self, guest: int, name: str) -> None:
        """There is none of this name."""
        for suffix in (".tar", ".part"):
            self._file(guest, name).with_suffix(suffix).unlink(missing_ok=True)

    def forget(self, guest: int) -> None:
        """There is none of this guest."""
        shutil.rmtree(self._directory / str(guest), ignore_errors=True)
