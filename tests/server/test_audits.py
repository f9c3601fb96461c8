"""Audits in a process of their own: what they find comes back, and so does why there is nothing to look at."""

import asyncio
from pathlib import Path

import pytest

from gpve.server.audits import Audits
from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.ledger import Work
from gpve.world.store import StoreDown


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'gpve.db'}"


@pytest.fixture
def store(tmp_path: Path) -> SqlStore:
    engine = connect(address(tmp_path))
    migrate(engine)
    return SqlStore(engine)


def test_findings_come_back_and_those_who_ask_meanwhile_share_them(
    store: SqlStore, tmp_path: Path, monkeypatch
) -> None:
    audits, begun = Audits(address(tmp_path)), []
    make = asyncio.create_subprocess_exec

    async def counted(*told, **given):
        begun.append(told)
        return await make(*told, **given)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)

    async def several() -> list[list[str]]:
        return await asyncio.gather(*(audits.audit() for _ in range(5)))

    assert asyncio.run(several()) == [[]] * 5
    assert len(begun) == 1
    row = {"resource": "guest/1", "task": 77, "shared": False}
    store.transact([Work(lambda tx: tx.put("lock", row))])
    (finding,) = asyncio.run(audits.audit())
    assert "lock" in finding
    assert "task 77 is over" in finding
    assert len(begun) == 2


def test_a_database_that_is_none(tmp_path: Path) -> None:
    """Whatever is wrong with it, it is said, and nothing is left behind."""
    (tmp_path / "gpve.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreDown, match="not a database"):
        asyncio.run(Audits(address(tmp_path)).audit())
    assert [path.name for path in tmp_path.iterdir()] == ["gpve.db"]


def test_who_gives_up_does_not_end_it_for_the_others(store: SqlStore, tmp_path: Path) -> None:
    async def one_gives_up() -> list[str]:
        audits = Audits(address(tmp_path))
        impatient, patient = asyncio.create_task(audits.audit()), asyncio.create_task(audits.audit())
        await asyncio.sleep(0.05)
        impatient.cancel()
        return await patient

    assert asyncio.run(one_gives_up()) == []
