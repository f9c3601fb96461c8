"""A store in memory, with the meaning of the real ones: transactions, counters, revisions, a change log."""

from collections.abc import Callable, Collection, KeysView, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile, zip_longest
from operator import itemgetter
from typing import Any

from gpve.tasks.events import encode
from gpve.tasks.lease import free
from gpve.tasks.ledger import Key, Row, Work
from gpve.tasks.retention import Compacted
from gpve.tasks.state import CLOSED
from gpve.tasks.tables import COUNTERS, TABLES, Table

Rows = dict[Key, Row]
Index = dict[Any, dict[Key, None]]
"""By the value of a column, or the values of some: the keys of the rows that have them. Made when first asked for."""
Values = Callable[[Row], Any]


def _key_of(columns: Sequence[str]) -> Values:
    """What picks the key out of a row: a tuple, of one column as well."""
    if len(columns) == 1:
        (column,) = columns
        return lambda row: (row[column],)
    return itemgetter(*columns)


@dataclass(frozen=True)
class _Shape:
    """A table, as a transaction wants to know it."""

    columns: KeysView[str]
    key: Values
    unique: tuple[tuple[tuple[str, ...], Values], ...]
    """Columns whose values no two rows share, and what picks them out of a row."""
    revised: bool
    """Its rows carry the revision of their last change."""

    @staticmethod
    def of(table: Table) -> "_Shape":
        unique = tuple((columns, itemgetter(*columns)) for columns in table.unique)
        return _Shape(table.columns.keys(), _key_of(table.key), unique, "revision" in table.columns)


SHAPES = {name: _Shape.of(table) for name, table in TABLES.items()}
TOLD = frozenset(("node", "claim"))
"""Tables of whose changes the store itself takes note."""
WATCHED = TOLD.union(name for name, table in TABLES.items() if table.watched)


class MemoryStore:
    """Tables as dictionaries. ``clock`` gives the store's time in seconds.

    ``watched``: keep the change log, for watchers.
    """

    def __init__(self, clock: Callable[[], float], *, watched: bool = True) -> None:
        self._clock = clock
        self.watched = watched
        self._latest: dict[str, None] = {}
        """Names of nodes, the one that changed last at the end."""
        self.tables: dict[str, Rows] = {name: {} for name in TABLES}
        self._indexes: dict[str, dict[tuple[str, ...], tuple[Values, Index]]] = {name: {} for name in TABLES}
        self.released: Callable[[int, str], None] | None = None
        """Told of (guest, node) whose claim is gone."""
        for name, first in COUNTERS.items():
            self.set("counter", (name,), {"name": name, "value": first - 1})

    def transact(self, works: Sequence[Work], before: "Callable[[MemoryTx], None] | None" = None) -> list[Any]:
        """As in `gpve.world.store.Store`. ``before``: called before the commit; if it raises, nothing is written."""
        tx = MemoryTx(self, self._clock())
        results: list[Any] = []
        for work in works:
            mark = len(tx.journal)
            try:
                results.append(work.run(tx))
            except Exception as error:  # a work may raise anything: it is the caller's answer
                tx.roll_back(mark)
                results.append(error)
        if before is not None:
            try:
                before(tx)
            except Exception:
                tx.roll_back(0)
                raise
        tx.commit()
        return results

    def claimable(self, me: str, versions: Sequence[tuple[str, int, str]], limit: int) -> list[int]:
        """As in `gpve.world.store.Store`."""
        known = set(versions)
        tx = MemoryTx(self, self._clock())
        by_project: dict[str, list[int]] = {}
        for status in ("queued", "running", "waiting", "undoing"):
            for row in self.find("task", {"status": status}):
                if (row["flow"], row["version"], row["table_hash"]) in known and free(tx, row, me):
                    by_project.setdefault(row["project"], []).append(row["id"])
        turns = chain.from_iterable(zip_longest(*(sorted(ids) for ids in by_project.values())))
        return [task for task in turns if task is not None][:limit]

    def cancelled(self, me: str) -> list[int]:
        """As in `gpve.world.store.Store`."""
        return [row["id"] for row in self.find("task", {"owner": me}) if row["cancel"] is not None]

    def answered(self, me: str) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        return [row for row in self.rows("outbox") if row["outcome"] is not None and self._owner(row) == me]

    def undelivered(self, nodes: Sequence[str], me: str) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        found = chain.from_iterable(self.find("outbox", {"node": node}) for node in nodes)
        rows = [row for row in found if row["relay"] and row["outcome"] is None and self._owner(row) != me]
        return sorted(rows, key=lambda row: (row["task"], row["step"], row["direction"]))

    def _owner(self, outbox: Row) -> Any:
        return self.tables["task"][(outbox["task"],)]["owner"]

    def now(self) -> float:
        """As in `gpve.world.store.Store`."""
        return self._clock()

    def rows(self, table: str, *, limit: int | None = None, newest: bool = False, **equal: Any) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        found = self.find(table, equal)
        return (found[::-1] if newest else found)[:limit]

    def nodes(self, revision: int, names: Collection[str]) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        rows = self.tables["node"]
        found = {name for name in names if (name,) in rows}
        for name in reversed(self._latest):
            if rows[name,]["revision"] <= revision:
                break
            found.add(name)
        return [rows[name,] for name in sorted(found)]

    def sessions(self) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        found = []
        for row in self.find("session", {}):
            node = self.tables["node"].get((row["node"],))
            if node is not None:
                told = {name: row[name] for name in ("node", "beat", "dead_at")}
                found.append({**told, "alive": node["alive"]})
        return found

    def changed(self, name: str) -> None:
        """A node's row was written or removed."""
        self._latest.pop(name, None)
        if (name,) in self.tables["node"]:
            self._latest[name] = None

    def events_since(self, revision: int, limit: int) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        kept_after = self.tables["counter"][("compacted",)]["value"]
        if revision < kept_after:
            raise Compacted(revision, kept_after)
        late = [row for row in self.tables["event"].values() if row["revision"] > revision]
        late.sort(key=lambda row: (row["revision"], row["task"], row["seq"]))
        if len(late) <= limit:
            return late
        return [row for row in late if row["revision"] <= late[limit - 1]["revision"]]

    def compacted_changes(self, limit: int) -> list[Key]:
        """As in `gpve.world.store.Store`."""
        kept_after = self.tables["counter"][("compacted",)]["value"]
        # In the order in which they were written, so of their revisions.
        return list(islice(takewhile(lambda key: key[0] <= kept_after, self.tables["change"]), limit))

    def closed_before(self, time: float, limit: int) -> list[int]:
        """As in `gpve.world.store.Store`."""
        rows = [row for row in self.tables["task"].values() if row["closed_at"] is not None and row["closed_at"] < time]
        return [row["id"] for row in sorted(rows, key=lambda row: (row["closed_at"], row["id"]))][:limit]

    def take_out(self, task: int) -> tuple[Row, list[Row]]:
        """Remove a closed task and its log for good, and hand them out."""
        row = self.set("task", (task,), None)
        if row is None or row["status"] not in CLOSED:
            raise ValueError(f"task {task} is not over")
        for used in self.find("idempotency", {"task": task}):
            self.set("idempotency", (used["project"], used["key"]), None)
        log = [self.set("event", (task, seq), None) for seq in range(row["seq"])]
        return row, [event for event in log if event is not None]

    def find(self, table: str, equal: dict[str, Any]) -> list[Row]:
        """Rows with these values, in the order of the primary key."""
        rows = self.tables[table]
        if not equal:
            return [rows[key] for key in sorted(rows)]
        columns = tuple(equal)
        found = self._indexes[table].get(columns)
        if found is None:
            values, index = self._indexes[table][columns] = (itemgetter(*columns), {})
            for key, row in rows.items():
                index.setdefault(values(row), {})[key] = None
        else:
            index = found[1]
        wanted = tuple(equal.values())
        keys = index.get(wanted if len(wanted) > 1 else wanted[0])
        if not keys:
            return []
        return [rows[key] for key in (sorted(keys) if len(keys) > 1 else keys)]

    def set(self, table: str, key: Key, row: Row | None) -> Row | None:
        """Replace a row (None: remove it) and say what was there."""
        rows = self.tables[table]
        old = rows.get(key)
        for values, index in self._indexes[table].values():
            if old is not None:
                before = values(old)
                if row is not None and values(row) == before:
                    continue
                keys = index[before]
                del keys[key]
                if not keys:
                    del index[before]
            if row is not None:
                index.setdefault(values(row), {})[key] = None
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
        return old


class MemoryTx:
    """A transaction: it writes at once, and keeps what was there to roll back."""

    def __init__(self, store: MemoryStore, now: float) -> None:
        self._store = store
        self.now = now
        self.revision = store.tables["counter"][("revision",)]["value"] + 1
        self.journal: list[tuple[str, Key, Row | None]] = []

    def get(self, table: str, *key: Any) -> Row | None:
        """As in `gpve.tasks.ledger.Tx`."""
        return self._store.tables[table].get(key)

    def where(self, table: str, **equal: Any) -> list[Row]:
        """As in `gpve.tasks.ledger.Tx`."""
        return self._store.find(table, equal)

    def put(self, table: str, row: Row) -> None:
        """As in `gpve.tasks.ledger.Tx`."""
        shape = SHAPES[table]
        if shape.revised:
            row = {**row, "revision": self.revision}
        if row.keys() != shape.columns:
            raise ValueError(f"table {table}: columns {sorted(row)} are not {sorted(shape.columns)}")
        key = shape.key(row)
        for columns, values in shape.unique:
            old = self._store.tables[table].get(key)
            if old is None or values(old) != values(row):
                self._check_unique(table, row, columns)
        self.journal.append((table, key, self._store.set(table, key, row)))

    def _check_unique(self, table: str, row: Row, columns: Sequence[str]) -> None:
        if self._store.find(table, {column: row[column] for column in columns}):
            raise ValueError(f"table {table}: a second row with {[row[column] for column in columns]}")

    def delete(self, table: str, *key: Any) -> None:
        """As in `gpve.tasks.ledger.Tx`."""
        if key in self._store.tables[table]:
            self.journal.append((table, key, self._store.set(table, key, None)))

    def take(self, counter: str) -> int:
        """As in `gpve.tasks.ledger.Tx`."""
        rows, key = self._store.tables["counter"], (counter,)
        old = rows[key]
        value: int = old["value"] + 1
        rows[key] = {"name": counter, "value": value}
        self.journal.append(("counter", key, old))
        return value

    def roll_back(self, mark: int) -> None:
        """Forget everything since ``mark`` (a length of the journal)."""
        while len(self.journal) > mark:
            table, key, old = self.journal.pop()
            self._store.set(table, key, old)

    def commit(self) -> None:
        """Give the revision, and log what watchers hear of."""
        if not self.journal:
            return
        self.take("revision")
        store = self._store
        position = 0
        heard = WATCHED if store.watched else TOLD
        for table, key in dict.fromkeys([(table, key) for table, key, _ in self.journal if table in heard]):
            if table == "node":
                store.changed(key[0])
            elif table == "claim" and store.released is not None and key not in store.tables["claim"]:
                store.released(key[0], key[1])
            if store.watched and TABLES[table].watched:
                row = store.tables[table].get(key)
                change = {"revision": self.revision, "position": position, "table_name": table}
                data = None if row is None else encode(row)
                store.set("change", (self.revision, position), {**change, "row_key": encode(list(key)), "data": data})
                position += 1
