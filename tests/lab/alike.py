"""Both fidelities side by side: the compiled loop, and the task engine where nothing takes time."""

from dataclasses import replace

import gpve_sim as lab
import numpy as np
from gpve_sim.driver import Replayed, Settings, replay_trace
from gpve_sim.policies import load
from gpve_sim.results import summary
from gpve_sim.trace import Trace
from gpve_sim.world.lifecycle import replay_lifecycle
from gpve_sim.world.lived import Lifecycle

from gpve.model import Nodes
from gpve.scheduler.policy import Policy
from tests.lab.traces_here import loaded


def part(name: str, guests: int) -> Trace:
    """The first guests of a trace."""
    trace = lab.load(name) if name.startswith("generated/") else loaded(name)
    return replace(trace, guests=trace.guests.take(np.arange(min(guests, len(trace.guests)))), usage=None)


def same(trace: Trace, policy: str | Policy, seed: int = 0, queue: str = "drop", nodes: Nodes | None = None) -> int:
    """Both fidelities place alike, at the same moments. How many guests waited before they were placed."""
    decider = load(policy) if isinstance(policy, str) else policy
    placed = replay_trace(trace, decider, nodes=nodes, settings=Settings(queue=queue, seed=seed))
    return alike(placed, replay_lifecycle(trace, decider, nodes=nodes, queue=queue, seed=seed))


def alike(placed: Replayed, played: Lifecycle) -> int:
    run, arrival = placed.run, placed.guests.arrival_s
    assert (run.node == played.node).all()
    if len(run.devices):
        assert (run.devices == played.devices).all()
    start = run.start if len(run.start) else np.where(run.node >= 0, arrival, np.nan)
    assert np.array_equal(start, played.placed_s, equal_nan=True)
    said, other = summary(placed), played.summary()
    assert all(said[name] == other[name] for name in ("placed", "failed", "waiting"))
    return int((start > arrival).sum())
