"""The statements of a transaction as text, written once for a dialect: what the hot path hands to the driver."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Dialect, literal_column
from sqlalchemy.sql.elements import ColumnElement

from gpve.tasks.ledger import Key, Row
from gpve.tasks.tables import TABLES

SQLITE_NOW = "((julianday('now') - 2440587.5) * 86400.0)"
MYSQL_NOW = "UNIX_TIMESTAMP(NOW(6))"
SNAPSHOT = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "START TRANSACTION WITH CONSISTENT SNAPSHOT")


class Statements:
    """SQL for one dialect. Values are given by position, in the order of the columns of `TABLES`."""

    def __init__(self, dialect: Dialect) -> None:
        self._sqlite = dialect.name == "sqlite"
        self.updates = self._sqlite
        """Whether many UPDATEs are cheap. PyMySQL sends each by itself, but all rows of a REPLACE at once."""
        self._quote = dialect.identifier_preparer.quote_identifier
        self._mark = "?" if self._sqlite else "%s"
        self._lock = "" if self._sqlite else " FOR UPDATE"
        now = SQLITE_NOW if self._sqlite else MYSQL_NOW
        self.now: ColumnElement[float] = literal_column(now)
        """The database's clock, seconds since 1970."""
        self.begin = "BEGIN IMMEDIATE" if self._sqlite else "START TRANSACTION"
        self.snapshot = ("BEGIN",) if self._sqlite else SNAPSHOT
        """What begins a transaction that sees all as it is now, whatever others write meanwhile."""
        counter, name, value = self._quote("counter"), self._quote("name"), self._quote("value")
        self.counters = f"SELECT {name}, {value}, {now} FROM {counter} ORDER BY {name}{self._lock}"
        """All counters and the clock; whoever has read them is alone until he commits."""
        self._columns = {table: tuple(described.columns) for table, described in TABLES.items()}
        self._bools = {
            table: tuple(name for name, kind in described.columns.items() if kind.rstrip("?") == "bool")
            for table, described in TABLES.items()
        }
        self._lists = {table: ", ".join(map(self._quote, columns)) for table, columns in self._columns.items()}
        self._writes: dict[tuple[str, str], str] = {}

    def row(self, table: str, values: Sequence[Any]) -> Row:
        """A row from what the driver returns."""
        row = dict(zip(self._columns[table], values, strict=True))
        for name in self._bools[table]:
            row[name] = bool(row[name])
        return row

    def get(self, table: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """Rows by primary key."""
        return self.among(table, TABLES[table].key, keys)

    def delete(self, table: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """Remove rows by primary key."""
        sql = f"DELETE FROM {self._quote(table)} WHERE {self._any_of(TABLES[table].key, len(keys))}"
        return sql, [value for key in keys for value in key]

    def among(self, table: str, names: Sequence[str], values: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
        """Rows of which some columns have one of these sets of values."""
        return self._select(table, self._any_of(names, len(values))), [value for one in values for value in one]

    def _any_of(self, names: Sequence[str], count: int) -> str:
        if len(names) == 1:
            return f"{self._quote(names[0])} IN ({', '.join([self._mark] * count)})"
        one = " AND ".join(f"{self._quote(name)} = {self._mark}" for name in names)
        return " OR ".join([f"({one})"] * count)

    def where(self, table: str, equal: dict[str, Any]) -> tuple[str, list[Any]]:
        """Rows by the values of columns."""
        condition = " AND ".join(f"{self._quote(name)} = {self._mark}" for name in equal) or "1 = 1"
        return self._select(table, condition), list(equal.values())

    def _select(self, table: str, condition: str) -> str:
        return f"SELECT {self._lists[table]} FROM {self._quote(table)} WHERE {condition}{self._lock}"

    def write(self, table: str, manner: str) -> str:
        """``insert``, ``replace`` (whatever is there) or ``update`` (values, then key)."""
        found = self._writes.get((table, manner))
        if found is None:
            found = self._writes[table, manner] = self._written(table, manner)
        return found

    def _written(self, table: str, manner: str) -> str:
        name, keys = self._quote(table), TABLES[table].key
        by_key = " AND ".join(f"{self._quote(key)} = {self._mark}" for key in keys)
        match manner:
            case "insert" | "replace":
                verb = "INSERT" if manner == "insert" else "REPLACE"
                marks = ", ".join([self._mark] * len(self._columns[table]))
                return f"{verb} INTO {name} ({self._lists[table]}) VALUES ({marks})"
            case "update":
                others = [column for column in self._columns[table] if column not in keys]
                values = ", ".join(f"{self._quote(column)} = {self._mark}" for column in others)
                return f"UPDATE {name} SET {values} WHERE {by_key}"
        raise KeyError(manner)
