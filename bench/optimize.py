"""The reference instance of batch placement: 1,000 requests on 1,000 hosts. Prints one JSON line.

Hosts of 64 vCPU and 256 GiB; flavours of 1, 2, 4, 8, 16 vCPU with 4 GiB each per vCPU. loose: 20 % of the
hosts are empty and there is room for all; tight: no host is empty, hosts have up to 31 vCPU left, in all 1.1
times the demand, the others are full. Formulations: counts per class of equal hosts, counts per host, each
with quick answers first (as `place_batch` does) and by the solver alone, and (``--with-booleans``) one
Boolean per pair, as a reference to lose. Seconds are merging, build, solve, mapping back and checks, without
importing OR-Tools; cold: the hint places nothing; hinted: it is first-fit decreasing.
"""

import argparse
import json
import platform
import resource
from time import perf_counter
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from gpve.scheduler.optimize.place import place_batch
from gpve.scheduler.optimize.problem import Assignment, Batch

FLAVOURS = np.array([1, 2, 4, 8, 16])
SHARES = np.array([0.30, 0.30, 0.20, 0.12, 0.08])
HOST_VCPU = 64


def instance(kind: str, requests: int, hosts: int, seed: int) -> Batch:
    """The batch: requests by the shares of the flavours, free vCPU by the kind."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(len(FLAVOURS), requests, p=SHARES)
    demand = int(FLAVOURS[classes].sum())
    empty = np.zeros(hosts, bool)
    if kind == "loose":
        empty[rng.permutation(hosts)[: hosts // 5]] = True
        free = np.where(empty, HOST_VCPU, rng.integers(0, 17, hosts))
    else:
        free = rng.integers(0, HOST_VCPU // 2, hosts)
        filled = np.cumsum(free)
        free = np.where(filled <= round(1.1 * demand), free, 0)
    return Batch(
        free_cpu=1000 * free.astype(np.int64),
        free_mem=4096 * free.astype(np.int64),
        free_gpu=np.full((hosts, 1), -1, np.int32),
        node_type=np.zeros(hosts, np.int64),
        empty=empty,
        cpu=1000 * FLAVOURS,
        mem=4096 * FLAVOURS,
        gpu_count=np.zeros(len(FLAVOURS), np.int64),
        gpu_milli=np.zeros(len(FLAVOURS), np.int64),
        eligible=np.ones((len(FLAVOURS), 1), bool),
        weight=np.ones(len(FLAVOURS), np.int64),
        request_class=classes.astype(np.int64),
    )


def first_fit_decreasing(batch: Batch) -> Assignment:
    """Largest first, on the first running host that takes it, else on the first empty one."""
    order = np.argsort(batch.empty, kind="stable")
    free = batch.free_cpu[order].copy()
    node = np.full(len(batch.request_class), -1, np.int64)
    sizes = batch.cpu[batch.request_class]
    for r in np.argsort(-sizes, kind="stable"):
        at = int(np.argmax(free >= sizes[r]))
        if free[at] >= sizes[r]:
            free[at] -= sizes[r]
            node[r] = order[at]
    return Assignment(node, ((),) * len(node))


def counts(batch: Batch, hint: Assignment, by_class: bool, wall_limit_s: float, quick: bool = True) -> dict[str, Any]:
    """Build and solve with counts; the best of three for the class form, which is short."""
    seconds = []
    for _ in range(3 if by_class else 1):
        start = perf_counter()
        placement = place_batch(
            batch, hint, deterministic_limit=100.0, wall_limit_s=wall_limit_s, by_class=by_class, quick=quick
        )
        seconds.append(perf_counter() - start)
    return {
        "seconds": round(min(seconds), 4),
        "status": placement.status,
        "gap": placement.gap,
        **{level.name: level.value for level in placement.levels},
    }


def booleans(batch: Batch, wall_limit_s: float) -> dict[str, Any]:
    """One Boolean per pair of request and host, two workers, no hint: how it is usually written."""
    start = perf_counter()
    model = cp_model.CpModel()
    requests, hosts = len(batch.request_class), len(batch.free_cpu)
    size = (batch.cpu[batch.request_class] // 1000).tolist()
    x = [[model.new_bool_var("") for _ in range(hosts)] for _ in range(requests)]
    opened = [model.new_bool_var("") for _ in range(hosts)]
    for r in range(requests):
        model.add_at_most_one(x[r])
    for n in range(hosts):
        room = int(batch.free_cpu[n]) // 1000
        used = opened[n] if batch.empty[n] else 1
        load = cp_model.LinearExpr.weighted_sum([x[r][n] for r in range(requests)], size)
        model.add(load <= room * used)
    empty = [opened[n] for n in range(hosts) if batch.empty[n]]
    placed = cp_model.LinearExpr.weighted_sum([v for row in x for v in row], [s for s in size for _ in range(hosts)])
    model.maximize((hosts + 1) * placed - cp_model.LinearExpr.sum(empty))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 2
    solver.parameters.max_time_in_seconds = wall_limit_s
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return {
        "seconds": round(perf_counter() - start, 2),
        "status": solver.status_name(status),
        "cpu": solver.value(placed) * 1000 if found else None,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds per formulation")
    parser.add_argument("--with-booleans", action="store_true", help="also one Boolean per pair (minutes)")
    arguments = parser.parse_args()
    line: dict[str, Any] = {"bench": "optimize", "requests": arguments.requests, "hosts": arguments.hosts}
    for kind in ("loose", "tight"):
        batch = instance(kind, arguments.requests, arguments.hosts, arguments.seed)
        hint = first_fit_decreasing(batch)
        nothing = Assignment(np.full_like(hint.node, -1), hint.devices)
        line[kind] = {
            "classes_cold": counts(batch, nothing, True, arguments.limit),
            "classes_hinted": counts(batch, hint, True, arguments.limit),
            "classes_solver_cold": counts(batch, nothing, True, arguments.limit, quick=False),
            "classes_solver_hinted": counts(batch, hint, True, arguments.limit, quick=False),
            "per_host_cold": counts(batch, nothing, False, arguments.limit),
            "per_host_hinted": counts(batch, hint, False, arguments.limit),
            "per_host_solver_hinted": counts(batch, hint, False, arguments.limit, quick=False),
        }
        if arguments.with_booleans:
            line[kind]["booleans"] = booleans(batch, arguments.limit)
    line["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    line["python"] = platform.python_version()
    print(json.dumps(line))


if __name__ == "__main__":
    main()
