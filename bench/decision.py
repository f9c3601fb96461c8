"""One decision through the Python API at 10,000 hosts, the cluster four fifths full, guests coming and going."""

import argparse
import gc
import json
import time

import numpy as np

from gpve.model import Nodes
from gpve.scheduler.live import Claim, Demand, LiveCluster
from gpve.scheduler.policy import load


def main() -> None:
    """Fill the cluster, then time each call of `place`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--decisions", type=int, default=50_000)
    parser.add_argument("--policy", default="best-fit")
    options = parser.parse_args()
    n = options.hosts
    gpus = np.zeros(n, dtype=np.int32)
    nodes = Nodes(tuple(f"host{i}" for i in range(n)), np.full(n, 64_000), np.full(n, 262_144), gpus, gpus - 1)
    cluster = LiveCluster(nodes, load(options.policy))
    rng = np.random.default_rng(1)
    demands = {vcpu: Demand(1000 * vcpu, 4096 * vcpu) for vcpu in (1, 2, 4, 8, 16)}
    running: list[Claim] = []
    taken, nanoseconds = 0, []
    fill = int(0.8 * 64_000 * n)
    while len(nanoseconds) < options.decisions:
        demand = demands[int(rng.choice([1, 2, 4, 8, 16], p=[0.3, 0.3, 0.2, 0.12, 0.08]))]
        full = taken >= fill
        if full:
            gone = int(rng.integers(len(running)))
            running[gone], running[-1] = running[-1], running[gone]
            claim = running.pop()
            cluster.release(claim)
            taken -= claim.demand.cpu_milli
            gc.disable()  # the pauses of Python's collector are the caller's, not the decision's
        started = time.perf_counter_ns()
        placed = cluster.place(demand)
        elapsed = time.perf_counter_ns() - started
        gc.enable()
        if full:
            nanoseconds.append(elapsed)
        assert isinstance(placed, Claim)
        running.append(placed)
        taken += demand.cpu_milli
    p50, p99, p999 = (round(float(x) / 1000, 1) for x in np.quantile(nanoseconds, [0.5, 0.99, 0.999]))
    print(
        json.dumps(
            {"bench": "decision", "hosts": n, "policy": options.policy, "p50_us": p50, "p99_us": p99, "p999_us": p999}
        )
    )


if __name__ == "__main__":
    main()
