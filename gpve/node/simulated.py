"""Guests that do not exist: the state of a node as `gpve.world.hardware` has it, kept on disk in the journal.

The same verbs and the same answers as real executors, so that a thousand nodes fit on a laptop.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from gpve.node.executor import CallError, Cannot, Frame, Spent
from gpve.node.journal import Journal
from gpve.node.kept import Kept
from gpve.tasks.advance import Operation
from gpve.world.hardware import Cannot as HardwareCannot
from gpve.world.verbs import RESULTS, VERBS
from gpve.world.verbs.nodes import what_runs


class Simulated:
    """Executor of all kinds. ``work_s``: how long each operation takes."""

    atomic = True

    def __init__(self, journal: Journal, work_s: float = 0.0) -> None:
        self._kept, self._work_s = Kept(journal), work_s
        self.hardware = self._kept.restored()
        # Whoever starts has no lease yet.
        self.hardware.end_ha()

    async def make(self, operation: Operation, leased: bool) -> dict[str, Any]:
        """As in `gpve.node.executor.Executor`."""
        if self._work_s:
            await asyncio.sleep(self._work_s)
        verb, arguments = VERBS.get(operation.verb), operation.arguments
        if verb is None:
            raise Cannot(f"this version of the node agent knows no {operation.verb!r}")
        try:
            if not leased:
                self.hardware.restart_ha(arguments.get("guest"))
            verb(self.hardware, arguments)
            return RESULTS[operation.verb](self.hardware, arguments)
        except HardwareCannot as error:
            raise Cannot(str(error)) from error
        finally:
            if not leased:
                self.hardware.end_ha()
            # Whatever became of it: what is kept is what is here. And before we return, so that the record of the
            # operation gets into the same commit.
            self._kept.keep(self.hardware)

    async def runs(self, guests: Sequence[int]) -> list[int]:
        """As in `gpve.node.executor.Executor`."""
        found: list[int] = what_runs(self.hardware, {"guests": guests})["runs"]
        return found

    async def usage(self) -> dict[int, Spent]:
        """As in `gpve.node.executor.Executor`."""
        return {}

    async def clean(self, guests: Sequence[int]) -> None:
        """As in `gpve.node.executor.Executor`."""
        VERBS["node.clean"](self.hardware, {"guests": guests})
        self._kept.keep(self.hardware)

    async def lease(self, until: float) -> bool:
        """As in `gpve.node.executor.Executor`: what is simulated here ends with its node agent."""
        return True

    async def end_ha(self) -> None:
        """As in `gpve.node.executor.Executor`."""
        self.hardware.end_ha()
        self._kept.keep(self.hardware)

    async def restart_ha(self) -> None:
        """As in `gpve.node.executor.Executor`."""
        self.hardware.restart_ha()
        self._kept.keep(self.hardware)

    async def call(self, asked: Mapping[str, Any]) -> AsyncIterator[Frame]:
        """As in `gpve.node.executor.Executor`."""
        import orjson

        guest = asked["guest"]
        if guest not in self.hardware.workspaces and guest not in self.hardware.sandboxes:
            raise CallError("not-found", f"agent {guest} is not on this node")
        if asked["verb"] == "status":
            state = self.hardware.sandboxes.get(guest, "stopped")
            yield 1, orjson.dumps({"executor": "simulated", "state": state}), None
            return
        raise CallError("precondition", f"agent {guest} is simulated: it has no output and runs no programs")
