"""What guests really used, summed over those that run."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpve_sim.driver import Replayed


@dataclass(frozen=True)
class Used:
    """CPU and memory in use at T times, all running guests together."""

    cpu_milli: NDArray[np.float64]
    """(T,)"""
    memory_mib: NDArray[np.float64]


def usage_at(replayed: Replayed, times: NDArray[np.float64]) -> Used:
    """What was used at ``times`` (T,) seconds: rows of usage of guests that were placed, moved along with a late start.

    A row counts from its start (included) to its end (excluded).
    """
    usage = replayed.trace.usage
    assert usage is not None
    placed = replayed.run.node[usage.guest] >= 0
    guest = usage.guest[placed]
    late = np.zeros(len(guest))
    if len(replayed.run.start):
        late = replayed.run.start[guest] - replayed.load.arrival[guest]
    at = np.concatenate([usage.start_s[placed] + late, usage.end_s[placed] + late])
    order = np.argsort(at, kind="stable")
    at = at[order]
    position = np.searchsorted(at, times, side="right")

    def level(amount: NDArray[np.int64]) -> NDArray[np.float64]:
        changes = np.concatenate([amount[placed], -amount[placed]])[order]
        return np.concatenate([[0], np.cumsum(changes)])[position].astype(np.float64)

    return Used(level(usage.cpu_milli), level(usage.memory_mib))
