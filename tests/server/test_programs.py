"""Agents without a program: refused where all nodes run agents for real."""

import asyncio
import json
from typing import Any

import pytest

from gpve.server.programs import Programs
from gpve.tasks.errors import BadBody
from gpve.tasks.flows.agent_create import AgentCreate
from gpve.tasks.flows.agent_program import Program
from gpve.tasks.flows.vm_create import VmCreate

REAL, SIMULATED = ({"executors": {"agent": {"works": works, "why": ""}}} for works in (True, False))
AMOUNTS: dict[str, Any] = {"name": "x", "cpu_milli": 1, "memory_mib": 1}
BARE = AgentCreate(**AMOUNTS)


class Access:
    """The facts of some nodes."""

    def __init__(self, *facts: dict[str, Any]) -> None:
        self.store, self._facts = self, facts

    def rows(self, table: str) -> list[dict[str, str]]:
        assert table == "fact"
        return [{"facts": json.dumps(facts)} for facts in self._facts]

    async def read(self, ask: Any) -> Any:
        return ask()


def check(access: Access, kind: str, body: Any) -> None:
    asyncio.run(Programs(access).check(kind, body))  # type: ignore[arg-type]


@pytest.mark.parametrize("facts", [(), (SIMULATED,), (REAL, SIMULATED), ({},)])
def test_where_a_node_may_simulate_it_it_needs_none(facts: tuple[dict[str, Any], ...]) -> None:
    check(Access(*facts), "agent", BARE)


def test_where_all_run_agents_for_real_it_is_refused() -> None:
    with pytest.raises(BadBody, match="program: every node runs agents for real"):
        check(Access(REAL, REAL), "agent", BARE)
    check(Access(REAL), "agent", AgentCreate(**AMOUNTS, program=Program(argv=("/bin/true",), env={})))
    check(Access(REAL), "vm", VmCreate(**AMOUNTS))
