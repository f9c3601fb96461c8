"""How far a finished replay is from the best that any policy could have done.

Without departures: from an upper bound on the GPU (CPU where the cluster has no GPUs) that fits at all. With
departures: at some moments, from a lower bound on the nodes that the guests then running need if all may move at once
for free. Group limits and anti-affinity are left out, and nodes that are closed count as open: both only make the
problem easier, so the bounds hold, but the distance may then be larger than what a policy could make up for. For the
same reason the upper end of `Moment` is only known to be reached where no guest has such a rule.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpve.scheduler.columns import State
from gpve.scheduler.optimize.bounds import fewest_active, most_placed
from gpve.scheduler.optimize.check import Objective
from gpve.scheduler.optimize.problem import Batch, Bools, Ints
from gpve.scheduler.requests import Requests
from gpve_sim.driver import Replayed
from gpve_sim.kernel import tables as t

MOMENTS = 5
"""Moments at which a run with departures is looked at."""


@dataclass(frozen=True)
class Most:
    """What could be placed at most, and what this run placed, in thousandths of a device or of a core."""

    objective: Objective
    bound: int
    placed: int

    @property
    def distance_pct(self) -> float:
        """What is missing from the bound, % of the bound."""
        return 100 * (self.bound - self.placed) / self.bound if self.bound else 0.0


@dataclass(frozen=True)
class Moment:
    """Nodes that run something at one time, and the fewest that could."""

    time_s: float
    guests: int
    active: int
    lower: int
    upper: int

    @property
    def distance_pct(self) -> float:
        """Active nodes beyond the lower bound, % of the active nodes."""
        return 100 * (self.active - self.lower) / self.active


def batch_of(state: State, requests: Requests, guests: NDArray[np.int64], *, empty: bool) -> Batch:
    """The guests (rows) as one batch, R as long as ``guests``, for the nodes of ``state``.

    ``empty``: on nodes with all their capacity (after overcommit); else on what is free now and open. Guests that ask
    for devices but for nothing of them count as asking for none. Group rules are left out.
    """
    nodes, classes = state.nodes, requests.classes
    closed = np.zeros(len(nodes), bool) if empty else nodes["open"] == 0
    asked, request_class = np.unique(requests.of_guest[guests], return_inverse=True)
    wanted = classes[asked]
    # A type is what decides who may go there at all: closed or not, and the physical size that no guest may exceed,
    # which says more than the free capacity only where claims may sum to more than the node has.
    over = (nodes["cpu"] > nodes["host_cpu"]) | (nodes["mem"] > nodes["host_mem"])
    sizes = [np.where(over, nodes["host_cpu"], -1), np.where(over, nodes["host_mem"], -1)]
    types, node_type = np.unique(np.stack([nodes["type"], closed, *sizes], axis=1), axis=0, return_inverse=True)
    admits = (wanted["cpu"][:, None] <= types[:, 2]) & (wanted["mem"][:, None] <= types[:, 3]) | (types[:, 2] < 0)
    eligible: Bools = (state.eligible[wanted["constraint"]][:, types[:, 0]] == 0) & (types[:, 1] == 0) & admits
    devices = np.where(state.free_gpu >= 0, 1000, -1).astype(np.int32) if empty else state.free_gpu.copy()
    uses_gpu = wanted["gpu_milli"] > 0
    return Batch(
        free_cpu=(nodes["cpu"] if empty else state.free_cpu).copy(),
        free_mem=(nodes["mem"] if empty else state.free_mem).copy(),
        free_gpu=devices,
        node_type=node_type.reshape(-1).astype(np.int64),
        empty=np.ones(len(nodes), bool) if empty else nodes["guests"] == 0,
        cpu=wanted["cpu"].copy(),
        mem=wanted["mem"].copy(),
        gpu_count=np.where(uses_gpu, wanted["gpu_count"], 0).astype(np.int64),
        gpu_milli=np.where(wanted["gpu_count"] > 0, wanted["gpu_milli"], 0).astype(np.int64),
        eligible=eligible,
        weight=np.ones(len(asked), np.int64),
        request_class=request_class.reshape(-1).astype(np.int64),
    )


def objective_of(state: State) -> Objective:
    """What counts: GPU where the cluster has any, else CPU."""
    return "gpu" if state.free_gpu.shape[1] > 0 else "cpu"


def most_possible(replayed: Replayed, bound: int | None = None) -> Most:
    """Of a run without departures; ``bound`` if it is known already (it does not depend on the policy)."""
    objective = objective_of(replayed.state)
    if bound is None:
        everyone = np.arange(len(replayed.guests))
        bound = most_placed(batch_of(replayed.state, replayed.requests, everyone, empty=True), objective)
    return Most(objective, bound, round(float(replayed.run.now[t.GPU if objective == "gpu" else t.CPU])))


def fewest_possible(replayed: Replayed, moments: int = MOMENTS) -> list[Moment]:
    """Of a run with departures, at ``moments`` times evenly between its first arrival and its last event.

    Moments at which nothing runs are left out. A run with failures of nodes has none: the record does not say which
    guests ran at a time.
    """
    if t.FAIL in replayed.load.event_kind:
        return []
    rows = replayed.run.timeline[: min(int(replayed.run.at[t.A_ROWS]), len(replayed.load.sample_times))]
    found = []
    for k in range(1, moments + 1) if len(rows) else ():
        row = rows[k * len(rows) // (moments + 1)]
        time, active = float(row[t.T_TIME]), int(row[t.T_QUANTITIES + t.ACTIVE])
        guests = running_at(replayed, time)
        if not len(guests):
            continue
        fewest = fewest_active(batch_of(replayed.state, replayed.requests, guests, empty=True), active)
        found.append(Moment(time, len(guests), active, fewest.lower, fewest.upper))
    return found


def running_at(replayed: Replayed, time: float) -> Ints:
    """Rows of the guests that run after all events up to ``time``, in a run with departures and without failures.

    Who waited keeps its lifetime; what the trace ends, ends as the trace says to the last bit.
    """
    run, load = replayed.run, replayed.load
    start = run.start if len(run.start) else load.arrival
    end = np.where(start == load.arrival, load.departure, start + (load.departure - load.arrival))
    return np.flatnonzero((run.node >= 0) & (start <= time) & (time < end))
