"""``python -m gpve.server.audits``: audit the database whose address stands on standard input; print it as JSON.

A process of its own, at low priority: an audit reads every row and every log, which a server would hold room for ever
after, and it answered slowly meanwhile.
"""

import asyncio
import json
import os
import sys

from gpve.server.together import Together
from gpve.store.database import connect
from gpve.store.sql import SqlStore
from gpve.tasks.audit import audit
from gpve.tasks.flows import FLOWS
from gpve.world.store import StoreDown

PATIENCE_S = 900.0
STORE_DOWN = 2
"""Exit code."""


class Audits:
    """The audits of the database at ``address``: one at a time, for all that ask meanwhile."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._together = Together(self._look)

    async def audit(self) -> list[str]:
        """A sentence for each finding. Raises `StoreDown`, or `TimeoutError` after a quarter of an hour."""
        return await self._together()

    async def _look(self) -> list[str]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            told, problem = await asyncio.wait_for(process.communicate(self._address.encode()), PATIENCE_S)
        except BaseException:
            process.kill()
            raise
        if process.returncode == STORE_DOWN:
            raise StoreDown(problem.decode().strip())
        if process.returncode != 0:
            raise RuntimeError(f"the audit failed:\n{problem.decode()}")
        findings: list[str] = json.loads(told)
        return findings


def look_twice(store: SqlStore) -> list[str]:
    """The store goes on meanwhile: what is found must be found again to be believed. Raises `StoreDown`."""
    first = set(audit(store.rows, FLOWS))
    return sorted(first & set(audit(store.rows, FLOWS))) if first else []


if __name__ == "__main__":
    os.nice(10)
    try:
        print(json.dumps(look_twice(SqlStore(connect(sys.stdin.read())))))
    except StoreDown as down:
        print(down, file=sys.stderr)
        sys.exit(STORE_DOWN)
