"""A node for tests: a process that serves operations of one or more nodes, with its table and its effects on disk.

``python stub_node.py DIR NAME...`` listens on DIR/NAME.sock. DIR/NAME.effects has a line for each change that was
really made, appended before it is acknowledged; DIR/NAME.table has the table of operations. After kill -9 (which leaves
what was written with the kernel: no sync is needed) both are read again, so the process may die at any moment. A share
in DIR/NAME.refuse makes it refuse some commands.
"""

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from gpve.engine.wire import operation_from_line, outcome_to_line
from gpve.tasks.advance import Operation
from gpve.tasks.operations import Make, OpKey, admit, key_of
from gpve.tasks.outcome import Done, Outcome, Refused
from gpve.world.hardware import Cannot, Hardware
from gpve.world.verbs import VERBS


class Appended:
    """A file of JSON lines that is only ever appended to; a line that was torn off by a kill is cut away."""

    def __init__(self, path: Path) -> None:
        self.lines: list[Any] = []
        good = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                self.lines.append(json.loads(line))
                good += len(line)
            os.truncate(path, good)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, said: Any) -> None:
        os.write(self._file, json.dumps(said).encode() + b"\n")


class Table:
    """The journal of operations (`gpve.tasks.operations.Journal`) on disk."""

    def __init__(self, path: Path) -> None:
        self._file = Appended(path)
        self._results: dict[OpKey, dict[str, Any]] = {}
        self._resources: dict[int, set[str]] = {}
        self._tombstones: set[tuple[int, str]] = set()
        self._epochs: dict[str, int] = {}
        for said in self._file.lines:
            self._take(said)

    def _take(self, said: list[Any]) -> None:
        match said:
            case ["done", task, step, direction, result, resource]:
                self._results[task, step, direction] = result
                self._resources.setdefault(task, set()).add(resource)
            case ["tombstone", task, step]:
                self._tombstones.add((task, step))
            case ["epoch", resource, epoch]:
                self._epochs[resource] = epoch
            case ["dropped", task]:
                self._resources.pop(task, None)
                self._tombstones = {(of, step) for of, step in self._tombstones if of != task}
                self._results = {key: result for key, result in self._results.items() if key[0] != task}

    def _write(self, *said: Any) -> None:
        self._file.add(said)
        self._take(list(said))

    def done(self, key: OpKey) -> dict[str, Any] | None:
        return self._results.get(key)

    def record(self, operation: Operation, result: dict[str, Any]) -> None:
        self._write("done", *key_of(operation), result, operation.resource)

    def tombstone(self, task: int, step: str) -> bool:
        return (task, step) in self._tombstones

    def bury(self, operation: Operation) -> None:
        if (operation.task, operation.step) not in self._tombstones:
            self._write("tombstone", operation.task, operation.step)

    def newest(self, resource: str) -> int:
        return self._epochs.get(resource, 0)

    def fence(self, resource: str, epoch: int) -> None:
        self._write("epoch", resource, epoch)

    def drop(self, task: int) -> list[str]:
        resources = sorted(self._resources.get(task, ()))
        self._write("dropped", task)
        return resources


class Node:
    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.table = Table(directory / f"{name}.table")
        self.effects = Appended(directory / f"{name}.effects")
        self.hardware = Hardware()
        for said in self.effects.lines:
            VERBS[said["verb"]](self.hardware, said["arguments"])
        share = directory / f"{name}.refuse"
        self.refuse = float(share.read_text()) if share.exists() else 0.0
        self.delay_s = 0.0
        self.random = random.Random(name)

    async def perform(self, operation: Operation) -> Outcome:
        if operation.direction == "do" and self.random.random() < self.refuse:
            return Refused("refused by lot", again=False)
        verdict = admit(self.table, operation)
        if not isinstance(verdict, Make):
            return verdict
        try:
            self.make(operation)
        except Cannot as error:
            return Refused(str(error))
        self.table.record(operation, {})
        return Done()

    def make(self, operation: Operation) -> None:
        if VERBS[operation.verb](self.hardware, operation.arguments):
            said = {"key": key_of(operation), "verb": operation.verb, "arguments": dict(operation.arguments)}
            self.effects.add(said)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                number, operation = operation_from_line(line)
                if operation.verb == "inventory":
                    things = self.hardware.snapshot()
                    things["ports"] = [[*key, mac] for key, mac in things["ports"].items()]
                    outcome: Outcome = Done(things)
                else:
                    outcome = await self.perform(operation._replace(node=self.name))
                if writer.is_closing():
                    break
                writer.write(outcome_to_line(number, outcome))
        except ConnectionError:
            pass
        finally:
            writer.close()


async def main(directory: Path, names: list[str]) -> None:
    for name in names:
        path = directory / f"{name}.sock"
        path.unlink(missing_ok=True)
        node = Node(directory, name)
        await asyncio.start_unix_server(node.serve, path, limit=1 << 20)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
