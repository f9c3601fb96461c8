"""What a node keeps on disk: its table of operations, and what it holds of its guests. SQLite, one file a process.

Several nodes may share one file (simulated ones, which are many in one process). Writes are committed together: who
needs them on disk awaits `written`.
"""

import asyncio
import sqlite3
import time
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

    def read(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row."""
        row: tuple[Any, ...] | None = self._database.execute(sql, values).fetchone()
        return row

    def write(self, sql: str, *values: Any) -> None:
        """Change something; it is on disk when `written` has been awaited, or `commit` called."""
        if not self._open:
            self._database.execute("BEGIN IMMEDIATE")
            self._open = True
        self._database.execute(sql, values)

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
        waiting, self._waiting = self._waiting, []
        try:
            self.commit()
        except sqlite3.Error as error:
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def commit(self) -> None:
        """Everything is on disk. Raises `sqlite3.Error` (a full disk); then nothing of it is."""
        if self._open:
            self._open = False
            try:
                self._database.execute("COMMIT")
            except sqlite3.Error:
                # Some failures have rolled it back already.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

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
        options = orjson.OPT_NON_STR_KEYS
        self.disk.write(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?)", self._node, name, orjson.dumps(value, option=options)
        )
