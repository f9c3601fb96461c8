"""The store over SQLite and MySQL: transactions with one read and one write a table, whatever the number of works.

A transaction first locks the row of the counter `revision`, and with it every other writer out: commits are in the
order of their revisions, a watcher skips nothing, and there are no deadlocks. That costs no more than the disk's own
order of commits does, because many works share one transaction (group commit).

The rows that works have read or put are kept beside the transaction; writes are collected and sent at its end.
"""

import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Collection, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy import Engine, and_, func, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import Select

from gpve.store.schema import METADATA
from gpve.store.statements import Statements
from gpve.store.tx import SqlTx
from gpve.tasks.ledger import Key, Row, Work
from gpve.tasks.retention import Compacted
from gpve.world.store import StoreDown, StoreFull

GIVEN_UP = (1205, 1213)
"""MySQL: a lock waited for too long, or a deadlock: the transaction is rolled back, and may be tried again."""
FULL = (sqlite3.SQLITE_FULL, 1021, 1114)
"""SQLite: no room. MySQL: none on the disk, or none in a table."""
TRIES = 5


class SqlStore:
    """A store in a database that `gpve.store.database` opened and migrated."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statements = Statements(engine.dialect)
        self._turnstile = _turnstile(engine)

    def transact(self, works: Sequence[Work]) -> list[Any]:
        """As in `gpve.world.store.Store`."""
        for attempt in range(TRIES):
            try:
                with self._turnstile:
                    return self._transact(works)
            except (pymysql.err.OperationalError, sqlite3.OperationalError) as error:
                if not _rolled_back(error) or attempt == TRIES - 1:
                    raise _down(error) from error
            except (pymysql.err.IntegrityError, sqlite3.IntegrityError) as error:
                # Somebody else inserted what these works had looked for in vain. Now they will find it.
                if attempt == TRIES - 1:
                    raise _down(error) from error
            except (pymysql.err.Error, sqlite3.Error, DBAPIError) as error:
                raise _down(error) from error
        raise AssertionError

    def _transact(self, works: Sequence[Work]) -> list[Any]:
        connection, cursor = self._begun()
        try:
            tx = SqlTx(cursor, self._statements)
            looks = [work.looks_at() for work in works]
            tx.fetch(row for look in looks for row in look.rows)
            tx.fetch_ranges(asked for look in looks for asked in look.ranges)
            results: list[Any] = []
            for work in works:
                mark = len(tx.journal)
                try:
                    results.append(work.run(tx))
                except (pymysql.err.Error, sqlite3.Error):
                    raise
                except Exception as error:  # a work may raise anything: it is the caller's answer
                    tx.roll_back(mark)
                    results.append(error)
            tx.flush()
            cursor.execute("COMMIT")
            cursor.close()
        except BaseException:
            connection.invalidate()
            raise
        connection.close()
        return results

    def _begun(self) -> tuple[Any, Any]:
        """A connection with a transaction, and a cursor. What the database's driver raises, and `DBAPIError`."""
        for again in (True, False):
            connection: Any = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(self._statements.begin)
                return connection, cursor
            except self._engine.dialect.loaded_dbapi.Error as error:
                gone = self._engine.dialect.is_disconnect(error, connection.driver_connection, None)
                connection.invalidate()
                if not (gone and again):
                    raise
                # It lay in the pool while the database was away, and so did the others. Nothing is lost yet.
                self._engine.dispose()
        raise AssertionError

    def claimable(self, me: str, versions: Sequence[tuple[str, int, str]], limit: int) -> list[int]:
        """As in `gpve.world.store.Store`."""
        task, engine = METADATA.tables["task"], METADATA.tables["engine"]
        mine, other = METADATA.tables["lock"].alias("mine"), METADATA.tables["lock"].alias("other")
        alive = (
            select(engine.c.incarnation)
            .where(engine.c.incarnation == task.c.owner, engine.c.lease_until > self._statements.now)
            .exists()
        )
        in_the_way = and_(
            mine.c.task == task.c.id,
            other.c.resource == mine.c.resource,
            other.c.task < task.c.id,
            or_(mine.c.shared.is_(False), other.c.shared.is_(False)),
        )
        blocked = select(mine.c.task).where(in_the_way).exists()
        turn = func.row_number().over(partition_by=task.c.project, order_by=task.c.id)
        free = (
            select(task.c.id, turn.label("turn"))
            .where(
                task.c.status.in_(("queued", "running", "waiting", "undoing")),
                task.c.poison.is_(None),
                task.c.flow.in_({name for name, _, _ in versions}),
                task.c.table_hash.in_({digest for _, _, digest in versions}),
                or_(task.c.owner.is_(None), and_(task.c.owner != me, ~alive)),
                or_(task.c.status != "queued", task.c.cancel.is_not(None), ~blocked),
            )
            .subquery()
        )
        query = select(free.c.id).order_by(free.c.turn, free.c.id).limit(limit)
        return [row["id"] for row in self._select(query)]

    def cancelled(self, me: str) -> list[int]:
        """As in `gpve.world.store.Store`."""
        task = METADATA.tables["task"]
        query = select(task.c.id).where(task.c.owner == me, task.c.cancel.is_not(None)).order_by(task.c.id)
        return [row["id"] for row in self._select(query)]

    def answered(self, me: str) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        task, outbox = METADATA.tables["task"], METADATA.tables["outbox"]
        query = select(outbox).join(task, task.c.id == outbox.c.task)
        return self._select(
            query.where(task.c.owner == me, outbox.c.outcome.is_not(None)).order_by(*outbox.primary_key)
        )

    def undelivered(self, nodes: Sequence[str], me: str) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        task, outbox = METADATA.tables["task"], METADATA.tables["outbox"]
        others = or_(task.c.owner.is_(None), task.c.owner != me)
        query = select(outbox).join(task, task.c.id == outbox.c.task)
        query = query.where(outbox.c.node.in_(nodes), outbox.c.relay, outbox.c.outcome.is_(None), others)
        return self._select(query.order_by(*outbox.primary_key))

    def rows(self, table: str, *, limit: int | None = None, newest: bool = False, **equal: Any) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        found = METADATA.tables[table]
        query = select(found).where(*(found.c[column] == value for column, value in equal.items()))
        order = [column.desc() if newest else column for column in found.primary_key]
        return self._select(query.order_by(*order).limit(limit))

    def page(
        self, table: str, after: Any | None, limit: int, *, newest: bool = False, **equal: Any
    ) -> tuple[list[Row], int]:
        """As `rows`, behind the row whose (first and only) key is ``after``; and the revision that it is true for."""
        found, counter = METADATA.tables[table], METADATA.tables["counter"]
        (key,) = found.primary_key
        # Read first: what is committed in between is in the page and comes once more by a watch, never not at all.
        (revision,) = self._select(select(counter.c.value).where(counter.c.name == "revision"))
        query = select(found).where(*(found.c[column] == value for column, value in equal.items()))
        if after is not None:
            query = query.where(key < after if newest else key > after)
        query = query.order_by(key.desc() if newest else key).limit(limit)
        return self._select(query), int(revision["value"])

    def changes_since(self, revision: int, limit: int, tables: Collection[str]) -> list[Row]:
        """Changes of watched rows of ``tables`` with a later revision, in order: about ``limit``, whole revisions.

        Raises `Compacted` if some of them are forgotten already.
        """
        change, counter = METADATA.tables["change"], METADATA.tables["counter"]
        wanted = and_(change.c.revision > revision, change.c.table_name.in_(tables))
        later = select(change.c.revision).where(wanted).order_by(change.c.revision)
        last = self._select(later.offset(limit - 1).limit(1))
        query = select(change).where(wanted)
        if last:
            query = query.where(change.c.revision <= last[0]["revision"])
        rows = self._select(query.order_by(change.c.revision, change.c.position))
        (kept,) = self._select(select(counter.c.value).where(counter.c.name == "compacted"))
        if revision < kept["value"]:
            raise Compacted(revision, kept["value"])
        return rows

    def revision(self) -> int:
        """The newest revision."""
        counter = METADATA.tables["counter"]
        (row,) = self._select(select(counter.c.value).where(counter.c.name == "revision"))
        return int(row["value"])

    def counts(self, table: str, column: str) -> dict[Any, int]:
        """How many rows have which value of a column."""
        found = METADATA.tables[table].c[column]
        rows = self._select(select(found, func.count().label("count")).group_by(found))
        return {row[column]: row["count"] for row in rows}

    def distinct(self, table: str, *columns: str) -> list[Row]:
        """What different values some columns have together."""
        found = METADATA.tables[table]
        return self._select(select(*(found.c[column] for column in columns)).distinct())

    def nodes(self, revision: int, names: Collection[str]) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        node = METADATA.tables["node"]
        query = select(node).where(or_(node.c.revision > revision, node.c.name.in_(names)))
        return self._select(query.order_by(node.c.name))

    def sessions(self) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        session, node = METADATA.tables["session"], METADATA.tables["node"]
        columns = (session.c.node, session.c.beat, session.c.dead_at, node.c.alive)
        joined = session.join(node, node.c.name == session.c.node)
        if self._engine.dialect.name != "sqlite":
            return self._select(select(*columns).select_from(joined).order_by(session.c.node))
        # One row that holds all of them: SQLite's driver gives the interpreter away at every row, and waits for it at
        # each while others are busy (a thousand nodes: 37 ms, and 4 ms so).
        together = func.json_group_array(func.json_array(*columns)).label("rows")
        (found,) = self._select(select(together).select_from(joined))
        names = [column.name for column in columns]
        rows = sorted(json.loads(found["rows"]))
        return [{**dict(zip(names, row, strict=True)), "alive": bool(row[-1])} for row in rows]

    def events_since(self, revision: int, limit: int) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        event, counter = METADATA.tables["event"], METADATA.tables["counter"]
        later = select(event.c.revision).where(event.c.revision > revision).order_by(event.c.revision)
        last = self._select(later.offset(limit - 1).limit(1))
        query = select(event).where(event.c.revision > revision)
        if last:
            query = query.where(event.c.revision <= last[0]["revision"])
        rows = self._select(query.order_by(event.c.revision, event.c.task, event.c.seq))
        # Looked at last: what was forgotten while we read is noticed.
        (kept,) = self._select(select(counter.c.value).where(counter.c.name == "compacted"))
        if revision < kept["value"]:
            raise Compacted(revision, kept["value"])
        return rows

    def compacted_changes(self, limit: int) -> list[Key]:
        """As in `gpve.world.store.Store`."""
        change, counter = METADATA.tables["change"], METADATA.tables["counter"]
        kept_after = select(counter.c.value).where(counter.c.name == "compacted").scalar_subquery()
        query = select(change.c.revision, change.c.position).where(change.c.revision <= kept_after)
        rows = self._select(query.order_by(change.c.revision, change.c.position).limit(limit))
        return [(row["revision"], row["position"]) for row in rows]

    def snapshot(self, tables: Sequence[str], at_once: int) -> Generator[tuple[str, list[Row]], None, None]:
        """All rows of these tables as they were at one moment, a batch at a time, by primary key."""
        try:
            with self._engine.connect() as connection:
                for begin in self._statements.snapshot:
                    connection.exec_driver_sql(begin)
                try:
                    for table in tables:
                        found = METADATA.tables[table]
                        result = connection.execute(select(found).order_by(*found.primary_key))
                        names = tuple(map(str, result.keys()))
                        while batch := result.fetchmany(at_once):
                            yield table, [dict(zip(names, row, strict=True)) for row in batch]
                finally:
                    connection.exec_driver_sql("ROLLBACK")
        except DBAPIError as error:
            raise _down(error) from error

    def compacted_decisions(self, limit: int) -> list[Key]:
        """Keys of decisions up to the compacted revision."""
        decision, counter = METADATA.tables["decision"], METADATA.tables["counter"]
        kept_after = select(counter.c.value).where(counter.c.name == "compacted").scalar_subquery()
        query = select(decision.c.engine, decision.c.number).where(decision.c.revision <= kept_after)
        return [(row["engine"], row["number"]) for row in self._select(query.limit(limit))]

    def closed_before(self, time: float, limit: int) -> list[int]:
        """As in `gpve.world.store.Store`."""
        task = METADATA.tables["task"]
        query = select(task.c.id).where(task.c.status.in_(("done", "undone")), task.c.closed_at < time)
        return [row["id"] for row in self._select(query.order_by(task.c.closed_at, task.c.id).limit(limit))]

    def ends(self, tasks: Collection[int], actor: str) -> list[Row]:
        """How these tasks stand; of those that are done only an actor's (empty: all)."""
        task = METADATA.tables["task"]
        columns = (task.c.id, task.c.flow, task.c.status, task.c.target, task.c.reason, task.c.actor)
        query = select(*columns).where(task.c.id.in_(tasks))
        if actor:
            query = query.where(or_(task.c.status != "done", task.c.actor == actor))
        return self._select(query.order_by(task.c.id))

    def now(self) -> float:
        """The database's clock, seconds since 1970."""
        return float(self._select(select(self._statements.now.label("now")))[0]["now"])

    def _select(self, query: "Select[Any]") -> list[Row]:
        for again in (True, False):
            try:
                with self._engine.connect() as connection:
                    result = connection.execute(query)
                    # Plain strings: what SQLAlchemy names columns with is a kind of its own.
                    names = tuple(map(str, result.keys()))
                    return [dict(zip(names, row, strict=True)) for row in result]
            except DBAPIError as error:
                # A connection that lay in the pool while the database was away: all of them are new ones now.
                if not (error.connection_invalidated and again):
                    raise _down(error) from error
        raise AssertionError


class _FileLock:
    """Writers of one SQLite file take turns here: its own way is to sleep and try again, up to a tenth of a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own = threading.Lock()
        self._file = -1

    def __enter__(self) -> None:
        self._own.acquire()
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._own.release()


def _turnstile(engine: Engine) -> "AbstractContextManager[None]":
    name = engine.url.database
    if engine.dialect.name == "sqlite" and name and name != ":memory:":
        return _FileLock(Path(f"{name}-turn"))
    return nullcontext()


def _rolled_back(error: Exception) -> bool:
    code = error.args[0] if error.args else None
    return code in GIVEN_UP or "database is locked" in str(error)


def _down(error: Exception) -> StoreDown:
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None) or (cause.args[0] if cause and cause.args else None)
    return StoreFull(str(cause)) if code in FULL else StoreDown(str(error))
