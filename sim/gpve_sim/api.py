"""The lab from Python: results as pandas frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gpve.model.columns import Nodes
from gpve.model.errors import InputError
from gpve.scheduler.fragmentation import typical_requests
from gpve.scheduler.policy import Policy
from gpve_sim import results
from gpve_sim.catalogue import load, load_nodes
from gpve_sim.comparison import vary
from gpve_sim.driver import Replayed, Settings, replay_trace
from gpve_sim.experiment import replay_under
from gpve_sim.policies import OR_TOOLS, Batching, find_decider
from gpve_sim.trace import Trace
from gpve_sim.workload import NodeEvents


@dataclass(frozen=True)
class Result:
    """A finished replay."""

    replayed: Replayed

    @property
    def summary(self) -> dict[str, Any]:
        """All figures, as summary.json holds them."""
        return results.summary(self.replayed)

    @property
    def timeline(self) -> pd.DataFrame:
        """The state over time, one row per sample."""
        return results.timeline(self.replayed).to_pandas()

    @property
    def placements(self) -> pd.DataFrame:
        """guest, node (missing: not placed), devices, in order of arrival."""
        return results.placements(self.replayed).to_pandas()

    @property
    def events(self) -> pd.DataFrame:
        """All that happened beyond placements on arrival."""
        return results.events(self.replayed).to_pandas()

    def plot(self, what: str = "allocation") -> Any:
        """A figure: ``allocation``, ``nodes`` or ``fragmentation``."""
        from gpve_sim import plots

        table = results.timeline(self.replayed)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        draw = {
            "allocation": plots.draw_allocation,
            "nodes": plots.draw_nodes,
            "fragmentation": plots.draw_fragments,
        }
        return draw[what](self.replayed, columns)

    def save(self, directory: str | Path) -> Path:
        """Leave the files that ``gpve replay --out`` leaves, with plots."""
        from gpve_sim.plots import plots_of

        where = results.output_directory(Path(directory))
        results.write_together(where, results.files_of(self.replayed, {}) | plots_of(self.replayed))
        return where


def replay(
    trace: str | Trace,
    policy: str | Policy | Batching = "best-fit",
    *,
    nodes: str | Nodes | None = None,
    departures: bool | None = None,
    queue: str = "drop",
    seed: int = 0,
    shuffle: bool = False,
    events: NodeEvents | None = None,
) -> Result:
    """Replay ``trace`` (a name, a path or a `Trace`) under ``policy`` (a name, ``file.py:name`` or your own;
    ``or-tools``, or a `Batching` that says how large the batches are).

    ``nodes``: the cluster (default: the trace's own). ``shuffle``: draw the order of arrival (where nothing departs)
    and of nodes by ``seed``. ``events``: what happens to nodes (see `gpve_sim.whatif`). Raises `InputError`.
    """
    loaded = load(trace, seed=seed) if isinstance(trace, str) else trace
    cluster = loaded.nodes if nodes is None else load_nodes(nodes) if isinstance(nodes, str) else nodes
    departs = loaded.departures if departures is None else departures and loaded.departures
    typical = typical_requests(loaded.guests, cluster.gpu_model_names)
    if shuffle:
        loaded, cluster = vary(loaded, cluster, seed, ("arrivals", "ties"), departs)
    decider = find_decider(policy) if isinstance(policy, str) else policy
    settings = Settings(queue=queue, departures=departs, seed=seed)
    if isinstance(decider, Policy):
        return Result(replay_trace(loaded, decider, nodes=cluster, events=events, settings=settings, typical=typical))
    if events is not None:
        raise InputError(f"the policy {OR_TOOLS} takes no events of nodes beside those of the cluster's own columns")
    return Result(replay_under(loaded, decider, nodes=cluster, settings=settings, typical=typical))
