"""How large the nodes are: a guest that none of them could hold, even if it were empty, would wait for ever.

It is refused when it is asked for, as is what no node would start. A thousand nodes have a few sizes: those are read,
once for all that ask meanwhile.
"""

import asyncio
import json
from dataclasses import dataclass

from gpve.model.kinds import real, tolerated
from gpve.server.access import Access
from gpve.server.together import Together
from gpve.tasks.errors import BadBody
from gpve.tasks.flows.create import Created

LOOK_S = 1.0
"""How old the sizes may be."""


@dataclass(frozen=True)
class Size:
    """What a node has when it is empty. ``gpus``: gpu_milli of each device."""

    cpu_milli: int
    memory_mib: int
    gpus: tuple[int, ...]
    taints: frozenset[str]

    def holds(self, body: Created) -> bool:
        """Whether the guest fits into it."""
        devices = [milli for milli in self.gpus if milli >= max(1, body.gpu_milli)]
        enough = self.cpu_milli >= body.cpu_milli and self.memory_mib >= body.memory_mib
        return enough and len(devices) >= body.gpu_count


class Sizes:
    """The sizes of the cluster's nodes."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._known: list[Size] = []
        self._known_at = float("-inf")
        self._together = Together(self._look)

    async def check(self, kind: str, body: Created) -> None:
        """Raise `BadBody` for a guest that no node which runs this kind could hold, if there is one that runs it.

        And for an agent without a program, where agents run for real: only simulated ones have none.
        """
        found = await self._sizes()
        really = real(kind, (size.taints for size in found))
        if really and kind == "agent" and getattr(body, "program", None) is None:
            raise BadBody("create", "program", "agents run for real here: say what it shall run (argv)")
        borne = tolerated(kind, really)
        sizes = [size for size in found if size.taints <= borne]
        if not sizes or any(size.holds(body) for size in sizes):
            return
        for name in ("cpu_milli", "memory_mib"):
            most = max(getattr(size, name) for size in sizes)
            if getattr(body, name) > most:
                raise BadBody("create", name, f"{getattr(body, name)} is more than any node has; the largest: {most}")
        most = max(len(size.gpus) for size in sizes)
        if body.gpu_count > most:
            raise BadBody("create", "gpu_count", f"{body.gpu_count} is more than any node has; the largest: {most}")
        raise BadBody("create", "cpu_milli", "no node is large enough in all of CPU, memory and GPUs at once")

    async def _sizes(self) -> list[Size]:
        """At most `LOOK_S` old."""
        if asyncio.get_running_loop().time() - self._known_at > LOOK_S:
            await self._together()
        return self._known

    async def _look(self) -> None:
        began = asyncio.get_running_loop().time()
        rows = await self._access.read(self._access.store.distinct, "node", "cpu_milli", "memory_mib", "gpus", "taints")
        self._known = [
            Size(
                row["cpu_milli"],
                row["memory_mib"],
                tuple(json.loads(row["gpus"])),
                frozenset(json.loads(row["taints"])),
            )
            for row in rows
        ]
        self._known_at = began
