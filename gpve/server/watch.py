"""Watching: changes in the order of their commits, from a revision on; nothing is skipped, what is gone is told."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

from gpve.server.access import Access
from gpve.server.http import shapes
from gpve.server.problems import Problem
from gpve.store.sql import SqlStore
from gpve.tasks.ledger import Row
from gpve.tasks.state import CLOSED, Status

Table = Literal["guest", "node", "volume", "network", "alarm", "event"]
TABLES: tuple[Table, ...] = ("guest", "node", "volume", "network", "alarm", "event")
AT_ONCE = 500
LOOK_S = 0.1
"""How often a server that has watchers asks the store for its newest revision."""
QUIET_S = 10.0
"""A watcher that was told nothing for so long is told that there is nothing: silence looks like a broken stream."""


class Pulse:
    """The newest revision, asked for once for all watchers of a server."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._revision = -1
        self._moved = asyncio.Event()
        self._asker: asyncio.Task[None] | None = None
        self._watchers = 0

    async def beyond(self, revision: int, patience_s: float) -> bool:
        """Wait until the newest revision is a later one; False: it is not, after so long."""
        until = time.monotonic() + patience_s
        self._watchers += 1
        if self._asker is None or self._asker.done():
            self._asker = asyncio.create_task(self._ask())
        try:
            while self._revision <= revision:
                rest = until - time.monotonic()
                if rest <= 0:
                    return False
                try:
                    await asyncio.wait_for(self._moved.wait(), rest)
                except TimeoutError:
                    return False
            return True
        finally:
            self._watchers -= 1

    async def _ask(self) -> None:
        while self._watchers:
            try:
                newest = await self.access.read(self.access.store.revision)
            except Exception:  # the watchers find out by themselves what is wrong
                newest = self._revision
                await asyncio.sleep(1.0)
            if newest != self._revision:
                self._revision = newest
                self._moved.set()
                self._moved = asyncio.Event()
            await asyncio.sleep(LOOK_S)


async def changes(
    pulse: Pulse, after: int | None, tables: Sequence[str]
) -> AsyncIterator[tuple[dict[str, Any] | None, bool]]:
    """Changes behind a revision (None: from now on), for ever, and whether each is the last one of its revision.

    (None, False): nothing yet; also the first thing if there is nothing at once. Raises `Compacted`, before anything.
    """
    newest = await pulse.access.read(pulse.access.store.revision)
    revision = newest if after is None else after
    if revision > newest:
        raise Problem(422, "bad-field", f"revision: {revision} is yet to come; the newest is {newest}")
    told_at = float("-inf")
    while True:
        rows, revision = await pulse.access.read(_both, pulse.access.store, revision, tables)
        for at, row in enumerate(rows):
            yield row, at + 1 == len(rows) or rows[at + 1]["revision"] != row["revision"]
            told_at = time.monotonic()
        # Others' changes move the revision, and are none for this watcher: only what was said counts.
        if time.monotonic() - told_at >= QUIET_S:
            yield None, False
            told_at = time.monotonic()
        await pulse.beyond(revision, told_at + QUIET_S - time.monotonic())


def _both(store: SqlStore, revision: int, tables: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """Changes of rows and events of tasks, merged, and the revision up to which they are all."""
    # Asked for first: two tables are read, and what is committed in between must be in both or in neither.
    newest = store.revision()
    found: list[dict[str, Any]] = []
    watched = [table for table in tables if table != "event"]
    until = [newest]
    if watched:
        rows = store.changes_since(revision, AT_ONCE, watched)
        found += [
            {
                "revision": row["revision"],
                "table": row["table_name"],
                "key": json.loads(row["row_key"]),
                "row": None if row["data"] is None else SHAPES[row["table_name"]](json.loads(row["data"])),
            }
            for row in rows
        ]
        until += [rows[-1]["revision"]] if len(rows) >= AT_ONCE else []
    if "event" in tables:
        events = store.events_since(revision, AT_ONCE)
        found += [
            {"revision": row["revision"], "table": "event", "key": [row["task"], row["seq"]], "row": _event(row)}
            for row in events
        ]
        until += [events[-1]["revision"]] if len(events) >= AT_ONCE else []
    # Where one of them has more, what lies behind its last revision waits for the next look.
    kept = [row for row in found if row["revision"] <= min(until)]
    return sorted(kept, key=lambda row: row["revision"]), min(until)


def _event(row: Row) -> dict[str, Any]:
    return {"task": row["task"], **shapes.event(row)}


SHAPES: dict[str, Callable[[Row], dict[str, Any]]] = {
    "guest": shapes.guest,
    "node": shapes.node,
    "volume": shapes.volume,
    "network": shapes.network,
    "alarm": dict,
}
"""By table: what a row looks like; as where it is asked for by itself."""


async def task(pulse: Pulse, number: int) -> AsyncIterator[Row | None]:
    """A task's row with each of its changes, until it is over or stuck; None: nothing yet."""
    seen, told_at = None, time.monotonic()
    while True:
        revision = await pulse.access.read(pulse.access.store.revision)
        row = await pulse.access.one("task", number)
        if row["revision"] != seen:
            seen = row["revision"]
            yield row
            if row["status"] in (*CLOSED, Status.STUCK) or row["poison"] is not None:
                return
            told_at = time.monotonic()
        elif time.monotonic() - told_at >= QUIET_S:
            yield None
            told_at = time.monotonic()
        await pulse.beyond(revision, told_at + QUIET_S - time.monotonic())
