"""What no node could hold is refused; the sizes of nodes are read once, however many guests are asked for at a time."""

import asyncio
from typing import Any

import pytest

from gpve.server.sizes import Sizes
from gpve.tasks.errors import BadBody
from gpve.tasks.flows.agent_create import AgentCreate
from gpve.tasks.flows.agent_program import Program
from gpve.tasks.flows.create import Created
from gpve.world.store import StoreDown


class Store:
    """Two sizes of nodes; only the second runs agents, and simulates them."""

    agents = '["gpve.simulated-agent"]'

    def distinct(self, table: str, *columns: str) -> list[dict[str, Any]]:
        sizes = [(4000, 4096, "[]", '["gpve.no-agent"]'), (2000, 8192, "[1000, 500]", self.agents)]
        return [dict(zip(columns, size, strict=True)) for size in sizes]


class Access:
    """Answers when it is let; counts."""

    def __init__(self) -> None:
        self.store, self.asked, self.let = Store(), 0, asyncio.Event()
        self.fails: Exception | None = None

    async def read(self, ask: Any, *arguments: Any) -> Any:
        self.asked += 1
        await self.let.wait()
        if self.fails is not None:
            raise self.fails
        return ask(*arguments)


def wish(**fields: Any) -> Created:
    return Created(**{"name": "x", "cpu_milli": 100, "memory_mib": 100, **fields})


def many(access: Access, count: int) -> list[Any]:
    """So many checks at a time, answered after all of them have asked."""

    async def run() -> list[Any]:
        sizes = Sizes(access)  # type: ignore[arg-type]
        checks = [asyncio.create_task(sizes.check("vm", wish())) for _ in range(count)]
        await asyncio.sleep(0)
        checks[0].cancel()
        access.let.set()
        return await asyncio.gather(*checks, return_exceptions=True)

    return asyncio.run(run())


def test_read_once_for_all_that_ask():
    access = Access()
    gave_up, *others = many(access, 64)
    assert isinstance(gave_up, asyncio.CancelledError)
    assert others == [None] * 63
    assert access.asked == 1


def test_a_store_that_is_away_is_told_to_all_at_once():
    access = Access()
    access.fails = StoreDown("away")
    _, *others = many(access, 64)
    assert others == [access.fails] * 63
    assert access.asked == 1


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("vm", {"cpu_milli": 4000}, None),
        ("vm", {"cpu_milli": 4001}, "cpu_milli"),
        ("agent", {"cpu_milli": 2001}, "cpu_milli"),
        ("vm", {"memory_mib": 8193}, "memory_mib"),
        ("vm", {"gpu_count": 2, "gpu_milli": 500}, None),
        ("vm", {"gpu_count": 3}, "gpu_count"),
        ("vm", {"gpu_count": 2, "gpu_milli": 600}, "cpu_milli"),
        ("vm", {"cpu_milli": 4000, "memory_mib": 8192}, "cpu_milli"),
    ],
)
def test_what_no_node_could_hold_is_refused(kind: str, fields: dict[str, int], field: str | None):
    async def run() -> None:
        access = Access()
        access.let.set()
        await Sizes(access).check(kind, wish(**fields))  # type: ignore[arg-type]

    if field is None:
        asyncio.run(run())
    else:
        with pytest.raises(BadBody) as refused:
            asyncio.run(run())
        assert refused.value.field == field


def test_an_agent_without_a_program_is_refused_where_agents_run_for_real():
    async def run(**fields: Any) -> None:
        access = Access()
        access.store.agents = "[]"
        access.let.set()
        sizes = Sizes(access)  # type: ignore[arg-type]
        await sizes.check("vm", wish())
        body = AgentCreate(**{"name": "x", "cpu_milli": 100, "memory_mib": 100, **fields})
        await sizes.check("agent", body)

    with pytest.raises(BadBody, match="say what it shall run") as refused:
        asyncio.run(run())
    assert refused.value.field == "program"
    asyncio.run(run(program=Program(argv=("/bin/true",), env={})))
