"""What is measured of replays, and what a comparison found of it: means, deviations, paired intervals."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from gpve_sim.driver import Replayed
from gpve_sim.results import capacity, digest, has_gpus, summary, timeline

GRID = 200
"""Points of the curves."""


@dataclass(frozen=True)
class Measure:
    """One figure of a replay."""

    name: str
    label: str
    better: int
    """+1: more is better; -1: less; 0: neither."""
    digits: int = 2
    short: str = ""
    """Heading in a terminal's table; measures without one are left to the report."""


MEASURES = (
    Measure("placed_pct", "placed, % of guests", +1, short="placed %"),
    Measure("gpu_pct", "GPU allocated, %", +1, short="GPU %"),
    Measure("cpu_pct", "CPU allocated, %", +1, short="CPU %"),
    Measure("memory_pct", "memory allocated, %", +1),
    Measure("fragmentation_pct", "GPU fragments, % of cluster", -1, short="fragments %"),
    Measure("distance_pct", "distance from best possible, %", -1, short="from best %"),
    Measure("stranded_cpu_pct", "stranded CPU, %", -1),
    Measure("stranded_memory_pct", "stranded memory, %", -1),
    Measure("active_nodes", "active nodes", -1, 1, short="active nodes"),
    Measure("energy_kwh", "energy, empty nodes off, kWh", -1, 1),
    Measure("wait_s", "mean wait, s", -1, 1, short="wait s"),
)
"""Where guests depart these are means over time, else they are taken at the end. The distance from the best possible
(`gpve_sim.best_possible`) is what is missing from the bound, or the active nodes that free migration would spare."""


@dataclass
class Measured:
    """The figures of a comparison."""

    trace: str
    baseline: str
    """The row that the others are compared with."""
    varied: tuple[str, ...]
    runs: pd.DataFrame
    """One row per run: policy, cluster, seed, row (policy, with the cluster if there are several), and all measures."""
    curves: pd.DataFrame
    """row, seed, x and the curves gpu_pct, cpu_pct, fragmentation_pct, active_nodes at `GRID` points."""
    x_label: str
    notes: tuple[str, ...] = ()
    bounds: dict[str, str] = field(default_factory=dict)
    """What is known of the best possible, in words."""

    def table(self) -> pd.DataFrame:
        """One row per policy (and cluster), one column per measure: mean over seeds."""
        return self._aggregate("mean")

    def deviations(self) -> pd.DataFrame:
        """As `table`, standard deviation between seeds."""
        return self._aggregate("std")

    def _aggregate(self, how: str) -> pd.DataFrame:
        rows = self.runs["row"].drop_duplicates()
        return self.runs.groupby("row")[self.measures()].agg(how).loc[rows]

    def measures(self) -> list[str]:
        """Names of the measures that this comparison has."""
        return [m.name for m in MEASURES if m.name in self.runs.columns and self.runs[m.name].notna().any()]

    def differences(self, confidence: float = 0.95) -> pd.DataFrame:
        """Difference of each row from the baseline, paired by seed: measure, row, mean, low, high, seeds.

        Student's t interval of the paired differences; low and high are NaN with a single seed.
        """
        from scipy import stats

        found = []
        for name in self.measures():
            wide = self.runs.pivot_table(index="seed", columns="row", values=name, dropna=False)
            for row in self.runs["row"].drop_duplicates():
                if row == self.baseline:
                    continue
                delta = (wide[row] - wide[self.baseline]).dropna()
                n, mean = len(delta), float(delta.mean())
                half = float("nan")
                if n > 1:
                    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1) * delta.std(ddof=1) / np.sqrt(n))
                found.append((name, row, mean, mean - half, mean + half, n))
        return pd.DataFrame(found, columns=["measure", "row", "mean", "low", "high", "seeds"])


def measure(replayed: Replayed, departs: bool) -> dict[str, Any]:
    """The figures of one run, by the names of `MEASURES`, and what identifies it."""
    said = summary(replayed)
    whole = capacity(replayed)
    which = "_mean" if departs else ""

    def share(key: str, of: str) -> float | None:
        value = said[key + which]
        return None if value is None or not whole[of] else 100 * value / whole[of]

    return {
        "arrivals": said["arrivals"],
        "placed": said["placed"],
        "failed": said["failed"],
        "waiting": said["waiting"],
        "placed_pct": 100 * said["placed"] / max(said["arrivals"], 1),
        "gpu_pct": share("used_gpu_milli", "gpu_milli"),
        "cpu_pct": share("used_cpu_milli", "cpu_milli"),
        "memory_pct": share("used_memory_mib", "memory_mib"),
        "fragmentation_pct": share("fragmentation_milli", "gpu_milli"),
        "stranded_cpu_pct": share("stranded_cpu_milli", "cpu_milli"),
        "stranded_memory_pct": share("stranded_memory_mib", "memory_mib"),
        "active_nodes": said["active_nodes" + which],
        "energy_kwh": said["energy_kwh_empty_nodes_off"] if departs else None,
        "wait_s": said["wait_s"]["mean"] if said["wait_s"] else None,
        "replay_s": said["replay_s"],
        "placements_sha256": digest(replayed),
    }


def curves(replayed: Replayed, departs: bool) -> tuple[pd.DataFrame, str]:
    """The run over its load, at `GRID` points: over time, or over what had arrived where nothing departs."""
    table = timeline(replayed)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    whole = capacity(replayed)
    if departs:
        x, label = (columns["time_s"] - columns["time_s"][0]) / 3600, "time, hours"
    elif has_gpus(replayed) and columns["arrived_gpu_milli"][-1] > 0:
        x, label = (
            100 * columns["arrived_gpu_milli"] / whole["gpu_milli"],
            "GPUs asked for so far, % of the cluster",
        )
    else:
        x, label = columns["arrived"].astype(np.float64), "guests arrived"
    grid = np.linspace(0.0, float(x[-1]), GRID)
    out = {"x": grid}
    for name, key, of in (
        ("gpu_pct", "gpu_milli", "gpu_milli"),
        ("cpu_pct", "cpu_milli", "cpu_milli"),
        ("fragmentation_pct", "fragmentation_milli", "gpu_milli"),
    ):
        if key in columns and whole[of]:
            out[name] = 100 * np.interp(grid, x, columns[key]) / whole[of]
    out["active_nodes"] = np.interp(grid, x, columns["active_nodes"])
    return pd.DataFrame(out), label
