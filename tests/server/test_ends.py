"""Ends of tasks in the log: what nobody waited for is told, what is done by the hundred is not."""

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpve.server import ends
from gpve.server.ends import Ends
from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.ledger import Work
from gpve.tasks.state import Status

TASK = {"project": "p", "version": 1, "table_hash": "", "body": "{}", "seq": 1, "submitted_at": 0.0, "closed_at": None}
TASK |= {"owner": None, "epoch": 0, "cancel": None, "committed": False, "step": None, "progress": 0.0, "poison": None}
ROWS = [
    TASK | {"id": 1, "actor": "first", "flow": "vm_create", "status": "done", "target": "100", "reason": None},
    TASK | {"id": 2, "actor": "first", "flow": "node_drain", "status": "undone", "target": "a", "reason": "it failed"},
    TASK | {"id": 3, "actor": "ha", "flow": "vm_recover", "status": "done", "target": "100", "reason": None},
    TASK | {"id": 4, "actor": "first", "flow": "vm_stop", "status": "stuck", "target": "101", "reason": "no answer"},
]
OVER = [(row["id"], Status(row["status"])) for row in ROWS]


@pytest.fixture
def store(tmp_path: Path) -> SqlStore:
    engine = connect(f"sqlite:///{tmp_path / 'gpve.db'}")
    migrate(engine)
    made = SqlStore(engine)

    def run(tx: Any) -> None:
        for row in ROWS:
            tx.put("task", row)

    assert made.transact([Work(run)]) == [None]
    return made


async def heard(store: SqlStore, read: Any) -> None:
    control: Any = SimpleNamespace(tracing=None, store=store, access=SimpleNamespace(read=read))
    told = Ends(control, asyncio.get_running_loop())
    told.heard(OVER[:2])
    told.heard(OVER[2:])
    await asyncio.sleep(0)
    assert told._telling is not None
    await told._telling


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_what_is_told_of_which_task(
    store: SqlStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    monkeypatch.setattr(ends, "TOGETHER_S", 0.0)
    caplog.set_level(level, ends.LOG.name)

    async def read(ask: Any, *arguments: Any) -> Any:
        return ask(*arguments)

    asyncio.run(heard(store, read))
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    told = [
        ("WARNING", "task 2: node_drain of a is undone: it failed"),
        ("INFO", "task 3: vm_recover of 100 is done"),
        ("WARNING", "task 4: vm_stop of 101 is stuck: no answer"),
    ]
    assert found == [*([("DEBUG", "task 1: vm_create of 100 is done")] if level == logging.DEBUG else []), *told]


def test_a_store_that_is_away_is_told_with_the_tasks(
    store: SqlStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "TOGETHER_S", 0.0)

    async def read(ask: Any, *arguments: Any) -> Any:
        raise TimeoutError("away")

    asyncio.run(heard(store, read))
    assert [record.getMessage() for record in caplog.records] == [
        "tasks 1, 2, 3, 4 ended; the store does not say how: away"
    ]
