"""MariaDB is asked no more often than it has to be, and its restart between two calls goes unnoticed."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pymysql
import pytest
from sqlalchemy import Engine

from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.ledger import Tx, Work
from tests.tasks.mariadb import MariaDb

pytestmark = pytest.mark.xdist_group("mariadb")


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Engine]:
    engine = connect(mariadb.database("trips"))
    migrate(engine)
    yield engine
    engine.dispose()
    with mariadb._connect() as connection:
        connection.cursor().execute("DROP DATABASE trips")


def put(tx: Tx) -> None:
    tx.put("token", {"digest": "d", "name": "n", "purpose": "api", "created_at": tx.now, "expires_at": None})


def test_a_read_is_one_trip_and_a_transaction_begins_and_commits_once(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, said = SqlStore(database), []
    store.revision()
    send = pymysql.connections.Connection._execute_command

    def noted(self: Any, command: int, sql: Any) -> None:
        said.append(bytes(sql).decode() if isinstance(sql, bytes) else sql)
        send(self, command, sql)

    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", noted)
    store.rows("node")
    assert len(said) == 1, said
    said.clear()
    store.transact([Work(lambda tx: tx.get("node", "n1"))])
    assert [sql.split()[0] for sql in said] == ["START", "SELECT", "SELECT", "COMMIT"], said


@pytest.mark.parametrize("first", ["read", "write"])
def test_a_restart_between_two_calls_goes_unnoticed(first: str, mariadb: MariaDb, database: Engine) -> None:
    store = SqlStore(database)
    with ExitStack() as several:
        for _ in range(4):
            several.enter_context(database.connect()).exec_driver_sql("SELECT 1")
    mariadb.kill()
    mariadb.start()
    calls = [lambda: store.rows("node"), lambda: store.transact([Work(put)])]
    for call in calls if first == "read" else reversed(calls):
        call()
    assert len(store.rows("token")) == 1


def test_a_snapshot_stays_as_it_was_and_leaves_nothing(database: Engine) -> None:
    store = SqlStore(database)
    seen = store.snapshot(["counter", "token"], 1)
    next(seen)
    store.transact([Work(put)])
    assert [table for table, _ in seen if table == "token"] == []
    assert len(store.rows("token")) == 1
    broken_off = store.snapshot(["token"], 1)
    next(broken_off)
    broken_off.close()
    store.transact([Work(lambda tx: tx.delete("token", "d"))])
    assert store.rows("token") == []
    with database.connect() as connection:
        # MariaDB and MySQL name it differently.
        (isolation,) = connection.exec_driver_sql("SHOW SESSION VARIABLES LIKE 't%%x%%isolation'").all()
        assert isolation[1] == "READ-COMMITTED"
