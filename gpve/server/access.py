"""How the use cases reach the store: reads in threads of their own, changes through the engine, tasks."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from gpve.engine.engine import Engine
from gpve.server.problems import Problem
from gpve.store.sql import SqlStore
from gpve.tasks.errors import BadBody, NotFound
from gpve.tasks.flow import Body, Flow
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.submit import KEY, Request

T = TypeVar("T")
PATIENCE_S = 20.0
"""For the store; then the caller is told that it does not answer."""
AT_ONCE = 2000
"""Changes that wait for a transaction; who comes then is asked to come later."""
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
"""Of a project, or of a node."""


@dataclass(frozen=True)
class Wish:
    """On whose behalf, and on which conditions. ``revision``: what the guest's must be (If-Match)."""

    actor: str
    project: str = "default"
    key: str | None = None
    revision: int | None = None


class Access:
    """The store of one server, and the engine whose transactions many callers share."""

    def __init__(self, store: SqlStore, engine: Engine) -> None:
        self.store, self.engine = store, engine
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="reader")
        self._changing = 0

    async def read(self, ask: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Ask the store in a thread."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(
            loop.run_in_executor(self._readers, partial(ask, *arguments, **named)), PATIENCE_S
        )

    async def change(self, run: Callable[[Tx], T]) -> T:
        """Make a change in the engine's next transaction."""
        answer: T = await self.wait(self.engine.transact(Work(run)))
        return answer

    async def wait(self, future: Any) -> Any:
        """Wait for what the engine promised."""
        self._changing += 1
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE_S)
        finally:
            self._changing -= 1

    async def submit(self, flow: str, body: Body, wish: Wish) -> Row:
        """Submit a task; its row."""
        if self._changing >= AT_ONCE:
            raise Problem(429, "too-many", f"{AT_ONCE} changes wait already", retry_after_s=1)
        if wish.key is not None and not KEY.fullmatch(wish.key):
            raise BadBody(flow, "Idempotency-Key", "1 to 128 printable ASCII characters without blanks are wanted")
        check_name(flow, "project", wish.project)
        check = (
            None
            if wish.revision is None
            else partial(_unchanged, guest=getattr(body, "guest", 0), revision=wish.revision)
        )
        request = Request(flow_of(flow), body, wish.project, wish.actor, wish.key, check)
        row: Row = await self.wait(self.engine.submit(request))
        return row

    async def one(self, table: str, key: Any) -> Row:
        """A row of a table of things that have a number or a name. Raises `NotFound`."""
        column = "name" if table == "node" else "id"
        if column == "id" and not 0 < key <= 1 << 53:
            raise NotFound(table, key)
        rows = await self.read(self.store.rows, table, **{column: key})
        if not rows:
            raise NotFound(table, key)
        return rows[0]


def check_name(what: str, field: str, name: str) -> None:
    """Raise `BadBody` for what is no name of a project or a node."""
    if not NAME.fullmatch(name):
        raise BadBody(what, field, "1 to 63 lower-case letters, digits, dots and dashes are wanted")


def flow_of(name: str) -> Flow:
    """The newest version of a flow."""
    flow = FLOWS.newest(name)
    assert flow is not None
    return flow


def _unchanged(tx: Tx, guest: int, revision: int) -> None:
    row = tx.get("guest", guest)
    if row is not None and row["revision"] != revision:
        raise Problem(412, "changed", f"guest {guest} is of revision {row['revision']}, not {revision}")
