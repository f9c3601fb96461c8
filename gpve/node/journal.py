"""What a node keeps on disk: its table of operations, and what it holds of its guests. SQLite, one file a process.

Several nodes may share one file (simulated ones, which are many in one process). Writes are committed together: who
needs them on disk awaits `written`.
"""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gpve.tasks.advance import Operation
from gpve.tasks.operations import OpKey, forget, key_of

KEPT_S = 14 * 86_400.0
"""How long the table remembers a task after its last operation; a copy that comes later meets the fence alone."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS operation (
  node TEXT, task INTEGER, step TEXT, direction TEXT, resource TEXT, epoch INTEGER, result BLOB, at REAL,
  PRIMARY KEY (node, task, step, direction)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstone (
  node TEXT, task INTEGER, step TEXT, at REAL, PRIMARY KEY (node, task, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epoch (
  node TEXT, resource TEXT, epoch INTEGER, PRIMARY KEY (node, resource)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS thing (
  node TEXT, kind TEXT, key BLOB, value BLOB, PRIMARY KEY (node, kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (node TEXT, name TEXT, value BLOB, PRIMARY KEY (node, name)) WITHOUT ROWID;
"""


class Disk:
    """The file. ``path`` ":memory:" for what shall not outlive the process."""

    def __init__(self, path: Path | str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(SCHEMA)
        self._open = False
        self._waiting: list[asyncio.Future[None]] = []
        self.lost = 0
        """How many transactions failed: what was written in them is not on disk."""

    def read(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row."""
        row: tuple[Any, ...] | None = self._database.execute(sql, values).fetchone()
        return row

    def write(self, sql: str, *values: Any) -> None:
        """Change something; it is on disk when `written` has been awaited, or `commit` called.

        Raises `sqlite3.Error`; then nothing is that was written since the last commit, for half of it may belong to
        what could not be written now.
        """
        if not self._open:
            self._database.execute("BEGIN IMMEDIATE")
            self._open = True
        try:
            self._database.execute(sql, values)
        except sqlite3.Error as error:
            self._lose()
            self._tell(error)
            raise

    async def written(self) -> None:
        """Wait until all that was written so far is on disk. All that wait at one moment share a commit."""
        if not self._open:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        if len(self._waiting) == 1:
            loop.call_soon(self._commit_for_all)
        await future

    def _commit_for_all(self) -> None:
        try:
            self.commit()
        except sqlite3.Error as error:
            self._tell(error)
        else:
            self._tell(None)

    def _tell(self, error: sqlite3.Error | None) -> None:
        """Those who wait hear what became of the transaction."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def commit(self) -> None:
        """Everything is on disk. Raises `sqlite3.Error` (a full disk); then nothing of it is."""
        if self._open:
            try:
                self._database.execute("COMMIT")
            except sqlite3.Error:
                self._lose()
                raise
            self._open = False

    def _lose(self) -> None:
        self._open = False
        self.lost += 1
        # Some failures have rolled it back already.
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def forget(self) -> None:
        """Remove what is older than anybody repeats."""
        sql = "SELECT node, task, MAX(epoch) FROM operation GROUP BY node, task HAVING MAX(at) < ?"
        for node, task, epoch in self.all(sql, time.time() - KEPT_S):
            forget(Journal(self, node), task, epoch)
        self.commit()

    def all(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows."""
        return self._database.execute(sql, values).fetchall()

    def close(self) -> None:
        """Commit, and let go of the file."""
        self.commit()
        self._database.close()


class Journal:
    """One node's part of the file (`gpve.tasks.operations.Journal`)."""

    def __init__(self, disk: Disk, node: str) -> None:
        self.disk, self._node = disk, node

    def done(self, key: OpKey) -> dict[str, Any] | None:
        """As in `gpve.tasks.operations.Journal`."""
        sql = "SELECT result FROM operation WHERE node = ? AND task = ? AND step = ? AND direction = ?"
        row = self.disk.read(sql, self._node, *key)
        if row is None:
            return None
        result: dict[str, Any] = orjson.loads(row[0])
        return result

    def record(self, operation: Operation, result: dict[str, Any]) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        sql = "INSERT OR REPLACE INTO operation VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        about = (*key_of(operation), operation.resource, operation.epoch)
        self.disk.write(sql, self._node, *about, orjson.dumps(result), time.time())

    def drop(self, task: int) -> list[str]:
        """As in `gpve.tasks.operations.Journal`."""
        found = self.disk.all("SELECT DISTINCT resource FROM operation WHERE node = ? AND task = ?", self._node, task)
        for table in ("operation", "tombstone"):
            self.disk.write(f"DELETE FROM {table} WHERE node = ? AND task = ?", self._node, task)
        return [resource for (resource,) in found]

    def tombstone(self, task: int, step: str) -> bool:
        """As in `gpve.tasks.operations.Journal`."""
        sql = "SELECT 1 FROM tombstone WHERE node = ? AND task = ? AND step = ?"
        return self.disk.read(sql, self._node, task, step) is not None

    def bury(self, operation: Operation) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        sql = "INSERT OR IGNORE INTO tombstone VALUES (?, ?, ?, ?)"
        self.disk.write(sql, self._node, operation.task, operation.step, time.time())

    def newest(self, resource: str) -> int:
        """As in `gpve.tasks.operations.Journal`."""
        row = self.disk.read("SELECT epoch FROM epoch WHERE node = ? AND resource = ?", self._node, resource)
        return 0 if row is None else int(row[0])

    def fence(self, resource: str, epoch: int) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        self.disk.write("INSERT OR REPLACE INTO epoch VALUES (?, ?, ?)", self._node, resource, epoch)

    def load(self, name: str) -> Any:
        """What was kept under a name; None: nothing."""
        row = self.disk.read("SELECT value FROM state WHERE node = ? AND name = ?", self._node, name)
        return None if row is None else orjson.loads(row[0])

    def keep(self, name: str, value: Any) -> None:
        """Keep a value (JSON) under a name."""
        self.disk.write("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", self._node, name, orjson.dumps(value))

    def things(self) -> Iterator[tuple[str, Any, Any]]:
        """All that was kept thing by thing: kind, key, value. Lists come back as tuples."""
        for kind, key, value in self.disk.all("SELECT kind, key, value FROM thing WHERE node = ?", self._node):
            yield kind, _read(key), _read(value)

    def keep_thing(self, kind: str, key: Any, value: Any) -> None:
        """Keep one thing: its key and value (JSON)."""
        sql = "INSERT OR REPLACE INTO thing VALUES (?, ?, ?, ?)"
        self.disk.write(sql, self._node, kind, orjson.dumps(key), orjson.dumps(value))

    def drop_thing(self, kind: str, key: Any) -> None:
        """Keep a thing no more."""
        sql = "DELETE FROM thing WHERE node = ? AND kind = ? AND key = ?"
        self.disk.write(sql, self._node, kind, orjson.dumps(key))


def _read(text: bytes) -> Any:
    value = orjson.loads(text)
    return tuple(value) if isinstance(value, list) else value
