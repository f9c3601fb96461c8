"""The store as an engine sees it."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from gpve.tasks.ledger import Key, Row, Work


class Store(Protocol):
    """Rows with transactions. Every method may raise `StoreDown`; then nobody knows whether it was done."""

    def transact(self, works: Sequence[Work]) -> list[Any]:
        """Do all works in one transaction, in order; per work what it returned, or the exception it raised.

        A work that raises leaves nothing behind, and does not disturb the others. Works see what earlier ones put. All
        works of one call share one revision, and revisions are given in the order of commits.
        """

    def claimable(self, me: str, versions: Sequence[tuple[str, int, str]], limit: int) -> list[int]:
        """Tasks that `lease.take` would probably give to ``me``, of these flows (name, version, table hash).

        At most ``limit``; taken in turn from the projects, oldest first within each.
        """

    def cancelled(self, me: str) -> list[int]:
        """Tasks of ``me`` for which somebody has asked for an end."""

    def answered(self, me: str) -> list[Row]:
        """Outbox rows of tasks of ``me`` that another engine has delivered, with their outcomes."""

    def undelivered(self, nodes: Sequence[str], me: str) -> list[Row]:
        """Outbox rows to be relayed to ``nodes``, without an outcome, of tasks that ``me`` does not own."""

    def now(self) -> float:
        """The store's clock, seconds since 1970."""

    def rows(self, table: str, *, limit: int | None = None, newest: bool = False, **equal: Any) -> list[Row]:
        """Rows to look at, outside of any transaction, by primary key (``newest``: the largest first)."""

    def nodes(self, revision: int, names: Collection[str]) -> list[Row]:
        """The rows of table `node` that have a later revision or one of these names, in the order of their names."""

    def sessions(self) -> list[Row]:
        """Of every node that ever beat, in the order of their names: node, beat, dead_at, alive."""

    def events_since(self, revision: int, limit: int) -> list[Row]:
        """Events with a later revision, in order of (revision, task, seq): at least ``limit``, whole revisions.

        Raises `Compacted` if some of them are forgotten already.
        """

    def compacted_changes(self, limit: int) -> list[Key]:
        """Keys of rows of the change log up to the compacted revision, the first ones first."""

    def closed_before(self, time: float, limit: int) -> list[int]:
        """Tasks that were closed before ``time``, the first ones first."""


class StoreDown(Exception):
    """The store does not answer, or the connection broke; the transaction may or may not have been committed."""


class StoreFull(StoreDown):
    """There is no room where the store lies: nothing was committed."""
