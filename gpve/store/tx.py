"""A transaction over a database's cursor: rows read once, writes collected and sent at its end."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpve.store.statements import Statements
from gpve.tasks.events import encode
from gpve.tasks.ledger import Key, Range, Row
from gpve.tasks.tables import TABLES

AT_ONCE = 500
"""Keys of one DELETE."""
APPENDED = ("event", "change")
"""Tables whose rows are only ever added: a second row with the same key is a defect that must not pass."""


class SqlTx:
    """A transaction on a DBAPI cursor."""

    def __init__(self, cursor: Any, statements: Statements) -> None:
        self._cursor, self._statements = cursor, statements
        self._rows: dict[str, dict[Key, Row | None]] = defaultdict(dict)
        """By table: rows as this transaction sees them."""
        self._stored: dict[str, dict[Key, Row | None]] = defaultdict(dict)
        """By table: rows as the database has them, where that is known."""
        self._touched: dict[str, dict[Key, None]] = defaultdict(dict)
        """By table: what was put or deleted, in order."""
        self._ranges: dict[str, dict[frozenset[tuple[str, Any]], list[Key]]] = defaultdict(dict)
        """By table and values of columns: which rows the database has there, where that is known."""
        self._taken: dict[str, set[int]] = defaultdict(set)
        """By counter: numbers that this transaction gave out."""
        self._counters: dict[str, int] = {}
        self.now = 0.0
        for name, value, now in self._query(statements.counters, ()):
            self._counters[name] = value
            self.now = float(now)
        self._read_counters = dict(self._counters)
        self.revision = self._counters["revision"] + 1
        self.journal: list[tuple[str, Key, bool, Row | None]] = []
        """What was there before each put and delete: table, key, whether anything was known, and what."""

    def _query(self, sql: str, values: Sequence[Any]) -> list[Any]:
        self._cursor.execute(sql, values)
        return list(self._cursor.fetchall())

    def fetch(self, reads: Iterable[tuple[str, Key]]) -> None:
        """Read rows by their keys, all rows of a table in one statement."""
        wanted: dict[str, dict[Key, None]] = defaultdict(dict)
        for table, key in reads:
            if key not in self._rows[table]:
                wanted[table][key] = None
        for table, keys in wanted.items():
            sql, values = self._statements.get(table, list(keys))
            found = dict.fromkeys(keys)
            found.update(self._read(table, sql, values))
            self._rows[table].update(found)
            self._stored[table].update(found)

    def fetch_ranges(self, ranges: Iterable[Range]) -> None:
        """Read what `where` will be asked for, all ranges of a table over the same columns in one statement."""
        wanted: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], list[Key]]] = defaultdict(dict)
        for table, equal in ranges:
            columns = tuple(sorted(equal))
            wanted[table, columns][tuple(equal[column] for column in columns)] = []
        for (table, columns), found in wanted.items():
            sql, values = self._statements.among(table, columns, list(found))
            for key, row in self._read(table, sql, values):
                self._rows[table].setdefault(key, row)
                self._stored[table].setdefault(key, row)
                found[tuple(row[column] for column in columns)].append(key)
            for of, keys in found.items():
                self._ranges[table][frozenset(zip(columns, of, strict=True))] = keys

    def _read(self, table: str, sql: str, values: Sequence[Any]) -> Iterator[tuple[Key, Row]]:
        key_columns = TABLES[table].key
        for values_of_row in self._query(sql, values):
            row = self._statements.row(table, values_of_row)
            yield tuple(row[column] for column in key_columns), row

    def get(self, table: str, *key: Any) -> Row | None:
        """As in `gpve.tasks.ledger.Tx`."""
        if key not in self._rows[table]:
            self.fetch([(table, key)])
        return self._rows[table][key]

    def where(self, table: str, **equal: Any) -> list[Row]:
        """As in `gpve.tasks.ledger.Tx`."""
        rows, touched = self._rows[table], self._touched[table]
        known = self._known(table, equal)
        if known is None:
            sql, values = self._statements.where(table, equal)
            known = []
            for key, row in self._read(table, sql, values):
                if key not in rows:
                    rows[key] = self._stored[table][key] = row
                known.append(key)
        found = {key: stored for key in known if key not in touched and (stored := rows[key]) is not None}
        # What this transaction wrote is not in the database yet.
        for key in touched:
            current = rows[key]
            if current is not None and equal.items() <= current.items():
                found[key] = current
        return [found[key] for key in sorted(found)]

    def _known(self, table: str, equal: dict[str, Any]) -> Sequence[Key] | None:
        """Which rows the database has where the columns have these values; None: it has to be asked."""
        # A column is named as the counter that its numbers are from, and no row has one that was just given out.
        if any(value in self._taken[column] for column, value in equal.items() if column in self._taken):
            return ()
        return self._ranges[table].get(frozenset(equal.items()))

    def put(self, table: str, row: Row) -> None:
        """As in `gpve.tasks.ledger.Tx`."""
        described = TABLES[table]
        if "revision" in described.columns:
            row = {**row, "revision": self.revision}
        if row.keys() != described.columns.keys():
            raise ValueError(f"table {table}: columns {sorted(row)} are not {sorted(described.columns)}")
        self._set(table, tuple(row[column] for column in described.key), row)

    def delete(self, table: str, *key: Any) -> None:
        """As in `gpve.tasks.ledger.Tx`."""
        self._set(table, key, None)

    def _set(self, table: str, key: Key, row: Row | None) -> None:
        rows = self._rows[table]
        self.journal.append((table, key, key in rows, rows.get(key)))
        self._touched[table][key] = None
        rows[key] = row

    def take(self, counter: str) -> int:
        """As in `gpve.tasks.ledger.Tx`."""
        # Not given back when a work raises: numbers may be skipped, never used twice.
        self._counters[counter] += 1
        self._taken[counter].add(self._counters[counter])
        return self._counters[counter]

    def roll_back(self, mark: int) -> None:
        """Forget the writes since ``mark`` (a length of the journal)."""
        while len(self.journal) > mark:
            table, key, known, row = self.journal.pop()
            if known:
                self._rows[table][key] = row
            else:
                del self._rows[table][key]
        self._touched.clear()
        for table, key, _, _ in self.journal:
            self._touched[table][key] = None

    def flush(self) -> None:
        """Send the writes, a statement for each table and manner."""
        if self.journal:
            self._counters["revision"] = self.revision
            self._log_changes()
        for table, keys in self._touched.items():
            batches: dict[str, list[Any]] = defaultdict(list)
            for key in keys:
                self._sort(table, key, batches)
            gone = batches.pop("delete", [])
            for first in range(0, len(gone), AT_ONCE):
                self._cursor.execute(*self._statements.delete(table, gone[first : first + AT_ONCE]))
            for manner, values in batches.items():
                self._cursor.executemany(self._statements.write(table, manner), values)
        taken = [(name, value) for name, value in self._counters.items() if value != self._read_counters[name]]
        if taken:
            self._cursor.executemany(self._statements.write("counter", "replace"), taken)

    def _sort(self, table: str, key: Key, batches: dict[str, list[Any]]) -> None:
        """Which statement brings this row into the database, and with which values."""
        row, columns = self._rows[table][key], TABLES[table].columns
        known = key in self._stored[table]
        stored = self._stored[table].get(key)
        if row is None:
            if not known or stored is not None:
                batches["delete"].append(key)
        elif (known and stored is None) or table in APPENDED:
            batches["insert"].append([row[column] for column in columns])
        elif not known or (row != stored and not self._statements.updates):
            batches["replace"].append([row[column] for column in columns])
        elif row != stored:
            values = [row[column] for column in columns if column not in TABLES[table].key]
            batches["update"].append([*values, *key])

    def _log_changes(self) -> None:
        touched = [(table, key) for table in self._touched if TABLES[table].watched for key in self._touched[table]]
        for position, (table, key) in enumerate(touched):
            row = self._rows[table][key]
            change = {"revision": self.revision, "position": position, "table_name": table}
            data = None if row is None else encode(row)
            self.put("change", {**change, "row_key": encode(list(key)), "data": data})
