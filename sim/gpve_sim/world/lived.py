"""What a trace came to at lifecycle fidelity: placements, times, tasks, logs, availability."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpve.model.kinds import KINDS
from gpve.tasks.ledger import Row
from gpve.tasks.tables import TABLES
from gpve_sim.trace import Trace
from gpve_sim.world import migrations
from gpve_sim.world.archive import Archive
from gpve_sim.world.migrations import Migration
from gpve_sim.world.outages import Uptime
from gpve_sim.world.store import MemoryStore


@dataclass
class Lifecycle:
    """What a trace came to at lifecycle fidelity. G guests."""

    trace: Trace
    names: tuple[str, ...]
    """Of the nodes."""
    node: NDArray[np.int64]
    """(G,) row of the node on which a guest was placed; -1: never."""
    devices: NDArray[np.int64]
    """(G,) devices as bits."""
    placed_s: NDArray[np.float64]
    """(G,) second at which a guest was placed first; NaN: never."""
    running_s: NDArray[np.float64]
    """(G,) seconds from arrival until it ran; NaN: never."""
    waiting: int
    """Guests that still waited for their first place at the end."""
    tasks: dict[str, Counter[str]]
    """By flow: how many ended how."""
    store: MemoryStore
    archived: dict[str, Archive]
    """Tables `task` and `event`: what is over, and not in the store any more."""
    uptime: Uptime
    ended_at: float
    """Seconds."""
    node_failures: int
    migrations: list[Migration]
    """As they ended."""
    replay_s: float

    def table(self, name: str) -> pa.Table:
        """The rows of table ``event`` or ``task``, by primary key."""
        live = Archive(name)
        live.add(self.store.rows(name))
        found = pa.concat_tables([self.archived[name].table(), live.table()])
        return found.sort_by([(column, "ascending") for column in TABLES[name].key])

    def rows(self, name: str) -> list[Row]:
        """The rows of any table, as the audit wants them."""
        return self.table(name).to_pylist() if name in self.archived else self.store.rows(name)

    @property
    def log(self) -> Any:
        """The logs of all tasks as a pandas frame: task, seq, kind, step, at (seconds), epoch, data, revision."""
        return self.table("event").to_pandas()

    def summary(self) -> dict[str, Any]:
        """What the command line prints."""
        guests = self.trace.guests
        ran = ~np.isnan(self.running_s)
        by_kind = {}
        for code, kind in enumerate(KINDS):
            times = self.running_s[ran & (guests.kind == code)]
            if len(times):
                p50, p99 = (round(float(np.percentile(times, q)), 6) for q in (50, 99))
                by_kind[kind] = {"guests": len(times), "p50_s": p50, "p99_s": p99}
        outcomes: Counter[str] = sum(self.tasks.values(), Counter())
        kinds = self.table("event").column("kind")
        undone = pc.sum(pc.equal(kinds, "undone")).as_py() or 0
        return {
            "fidelity": "lifecycle",
            "arrivals": len(guests),
            "placed": int((self.node >= 0).sum()),
            "failed": int((self.node < 0).sum()) - self.waiting,
            "waiting": self.waiting,
            "time_to_running": by_kind,
            "availability": self._availability(),
            "node_failures": self.node_failures,
            "restarts": int(self.uptime.restarts.sum()),
            "migrations": migrations.summary(self.migrations),
            "tasks": dict(outcomes),
            "tasks_by_flow": {flow: dict(counts) for flow, counts in sorted(self.tasks.items())},
            "steps_undone": undone,
            "log_rows": len(kinds),
            "replay_s": round(self.replay_s, 3),
            "guests_per_s": round(len(guests) / self.replay_s) if self.replay_s else None,
        }

    def _availability(self) -> dict[str, float]:
        """By kind: the share of the guests' lives in which they ran."""
        found = {}
        for code, kind in enumerate(KINDS):
            share = self.uptime.availability(self.trace.guests.kind == code, self.ended_at)
            if share is not None:
                found[kind] = round(share, 9)
        return found
