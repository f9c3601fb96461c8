"""What the pure core sees of a store: the rows, inside one transaction."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

Row = dict[str, Any]
Key = tuple[Any, ...]
Range = tuple[str, dict[str, Any]]
"""Rows of a table whose columns have these values."""


class Tx(Protocol):
    """One transaction: what is read is locked until its end, what is put is there for all or for nobody.

    Rows are plain dictionaries with the columns of `gpve.tasks.tables`. A row that was handed out must not be changed
    in place: put a new one.
    """

    now: float
    """The store's clock, seconds since 1970. One value for the whole transaction."""
    revision: int
    """The revision that this transaction gets when it commits."""

    def get(self, table: str, *key: Any) -> Row | None:
        """The row with this primary key."""

    def where(self, table: str, **equal: Any) -> list[Row]:
        """All rows whose columns equal the given values, in the order of the primary key."""

    def put(self, table: str, row: Row) -> None:
        """Insert the row, or replace the one with the same primary key. A column ``revision`` is filled in."""

    def delete(self, table: str, *key: Any) -> None:
        """Remove a row, if it is there."""

    def take(self, counter: str) -> int:
        """The next number of a counter of the whole store (`task`, `guest`, `epoch`)."""


class Looks(NamedTuple):
    """What is read: rows by (table, key), and what `Tx.where` is asked for."""

    rows: Sequence[tuple[str, Key]] = ()
    ranges: Sequence[Range] = ()


class Work(NamedTuple):
    """A piece of work for one transaction: all of its writes, or, if it raises, none of them.

    ``looks_at``: what it will probably read. A store may ask for that, and fetch it for many works at once.
    ``run`` may be called several times (a database that gives up a transaction is asked again): it must not keep state.
    """

    run: Callable[[Tx], Any]
    looks_at: Callable[[], Looks] = lambda: Looks()
