"""Nodes that fail and agents that crash, by seed, at lifecycle fidelity; and for how long guests were down."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpve.model.errors import InputError
from gpve_sim.streams import stream

NEVER = float("inf")
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0
"""An agent that crashes is started again by its node after a second, twice as long after each further crash."""


@dataclass(frozen=True)
class Failures:
    """What fails how often. Times in seconds; exponential, by seed, each node and agent with a stream of its own.

    ``node_mtbf_s``: from a node's return (or the beginning) to its next loss of power; ``node_mttr_s``: without power.
    ``agent_mtbf_s``: between crashes of an agent that runs. ``ha``: guests are restarted elsewhere when their node
    dies; otherwise their owners start them again when the node is back. ``lease_s``, ``margin_s``: when a silent node
    is declared dead.
    """

    node_mtbf_s: float = NEVER
    node_mttr_s: float = 600.0
    agent_mtbf_s: float = NEVER
    ha: bool = True
    lease_s: float = 15.0
    margin_s: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("node_mtbf_s", "node_mttr_s", "agent_mtbf_s"):
            if not getattr(self, name) > 0.0:
                raise InputError(f"{name} is a time above 0, not {getattr(self, name):g}")

    @property
    def any(self) -> bool:
        """Whether anything fails at all."""
        return self.node_mtbf_s < NEVER or self.agent_mtbf_s < NEVER

    def node_lots(self, node: str) -> np.random.Generator:
        """The lots of a node."""
        return stream(self.seed, f"failures of node {node}")

    def agent_lots(self, row: int) -> np.random.Generator:
        """The lots of an agent."""
        return stream(self.seed, f"crashes of agent {row}")


class Uptime:
    """When guests should run and did not. Rows are those of the trace."""

    def __init__(self, guests: int) -> None:
        self.began: NDArray[np.float64] = np.full(guests, np.nan)
        self.ended: NDArray[np.float64] = np.full(guests, np.nan)
        self.down_s: NDArray[np.float64] = np.zeros(guests)
        self.restarts: NDArray[np.int64] = np.zeros(guests, dtype=np.int64)
        self._since: dict[int, float] = {}

    def is_down(self, row: int) -> bool:
        """Whether a guest is down now."""
        return row in self._since

    def down(self, row: int, now: float) -> None:
        """A guest does not run any more, though it should."""
        self._since.setdefault(row, now)

    def up(self, row: int, now: float) -> None:
        """It runs again."""
        since = self._since.pop(row, None)
        if since is not None:
            self.down_s[row] += now - since
            self.restarts[row] += 1

    def still(self, row: int, for_s: float) -> None:
        """It stood still for a moment, and went on."""
        self.down_s[row] += for_s

    def end(self, row: int, now: float) -> None:
        """It should not run any longer: its life is over."""
        since = self._since.get(row)
        if since is not None:
            self.down_s[row] += now - since
            self._since[row] = now
        self.ended[row] = now

    def availability(self, rows: NDArray[np.bool_], now: float) -> float | None:
        """The share of their lives in which these guests ran; None if none of them lived."""
        lived = rows & ~np.isnan(self.began)
        ended = np.where(np.isnan(self.ended), now, self.ended)
        life = (ended - self.began)[lived].sum()
        down = self.down_s[lived].sum()
        down += sum(now - since for row, since in self._since.items() if lived[row] and np.isnan(self.ended[row]))
        return None if life <= 0 else float(1.0 - down / life)
