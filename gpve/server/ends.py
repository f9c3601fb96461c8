"""Tasks that came to an end on this server: counted, traced, and told in the log."""

import asyncio
import logging
from collections.abc import Sequence

from gpve.server.control import Control
from gpve.server.metrics import METRICS
from gpve.tasks.ha import ACTOR
from gpve.tasks.ledger import Row
from gpve.tasks.state import Status

LOG = logging.getLogger(__name__)
TOGETHER_S = 0.5
"""How long an end waits for others: their rows are read at once, and of most of them nothing is to be told."""


class Ends:
    """What is undone or stuck is a warning. What is done is told if nobody waited for it: high availability's own work;
    the rest of it at the level debug, where hundreds a second do no harm."""

    def __init__(self, control: Control, loop: asyncio.AbstractEventLoop) -> None:
        self._control, self._loop = control, loop
        self._over: list[int] = []
        self._telling: asyncio.Task[None] | None = None

    def heard(self, over: Sequence[tuple[int, Status]]) -> None:
        """Tasks came to an end; in the engine's thread."""
        for _, status in over:
            METRICS.over.labels(status.value).inc()
        self._loop.call_soon_threadsafe(self._hand_over, [task for task, _ in over])

    def _hand_over(self, tasks: list[int]) -> None:
        if self._control.tracing is not None:
            self._control.tracing.closed(tasks)
        self._over += tasks
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._over:
            await asyncio.sleep(TOGETHER_S)
            over, self._over = self._over, []
            unless = "" if LOG.isEnabledFor(logging.DEBUG) else ACTOR
            try:
                rows = await self._control.access.read(self._control.store.ends, over, unless)
            except Exception as error:  # they ended all the same; their rows say how
                LOG.warning("tasks %s ended; the store does not say how: %s", ", ".join(map(str, over[:16])), error)
                continue
            for row in rows:
                _say(row)


def _say(row: Row) -> None:
    level = logging.INFO if row["actor"] == ACTOR else logging.DEBUG
    told = f"{row['flow']} of {row['target']} is {row['status']}"
    if row["status"] != Status.DONE:
        level, told = logging.WARNING, f"{told}: {row['reason'] or 'it does not say why'}"
    extra = {"task": row["id"], "flow": row["flow"], "status": row["status"], "target": row["target"]}
    LOG.log(level, "task %d: %s", row["id"], told, extra=extra)
