"""Agents without a program: simulated ones have none, and a node that runs agents for real refuses them."""

import asyncio
import json
from typing import Any

from gpve.server.access import Access
from gpve.server.together import Together
from gpve.tasks.errors import BadBody
from gpve.tasks.flows.create import Created

LOOK_S = 60.0
"""How long it is believed that a node simulates agents."""


class Programs:
    """What nodes say of their executors, as far as it matters here."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._simulated_until = float("-inf")
        self._together = Together(self._look)

    async def check(self, kind: str, body: Created) -> None:
        """Raise `BadBody` for an agent that every node would refuse, if there is one that runs agents for real."""
        if kind != "agent" or getattr(body, "program", None) is not None:
            return
        if asyncio.get_running_loop().time() < self._simulated_until or await self._together():
            return
        raise BadBody("create", "program", "every node runs agents for real: say what it shall run (argv)")

    async def _look(self) -> bool:
        found = await self._access.read(self._simulated)
        if found:
            self._simulated_until = asyncio.get_running_loop().time() + LOOK_S
        return found

    def _simulated(self) -> bool:
        """Whether a node does not run agents for real, or there is none yet."""
        facts: list[dict[str, Any]] = self._access.store.rows("fact")
        return not facts or any(not _for_real(row["facts"]) for row in facts)


def _for_real(facts: str) -> bool:
    return bool(json.loads(facts).get("executors", {}).get("agent", {}).get("works"))
