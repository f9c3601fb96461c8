"""Checks of an answer that share nothing with the optimizer: does it fit, and what is it worth?"""

from typing import Literal

import numpy as np

from gpve.scheduler.optimize.problem import WHOLE, Assignment, Batch

Objective = Literal["guests", "cpu", "gpu"]


def start_order(batch: Batch) -> list[int]:
    """Requests in an order in which every limit of a group holds at each start: smaller limits first
    (`Groups`).
    """
    limit = np.where(batch.limit > 0, batch.limit, np.iinfo(np.int64).max)
    order: list[int] = np.argsort(limit[batch.request_class], kind="stable").tolist()
    return order


def violation(batch: Batch, assignment: Assignment) -> str | None:
    """None if every placed request fits, starting one by one in `start_order`; else what is wrong, in
    words.
    """
    cpu, mem, gpu = batch.free_cpu.copy(), batch.free_mem.copy(), batch.free_gpu.copy()
    members = batch.groups.members.copy() if batch.groups is not None else None
    for r in start_order(batch):
        n, c, devices = int(assignment.node[r]), int(batch.request_class[r]), assignment.devices[r]
        if n < 0:
            if devices:
                return f"request {r} has devices but no node"
            continue
        if not batch.eligible[c, batch.node_type[n]]:
            return f"request {r} is not admitted on node {n}"
        cpu[n] -= batch.cpu[c]
        mem[n] -= batch.mem[c]
        if cpu[n] < 0 or mem[n] < 0:
            return f"request {r} overfills node {n}"
        if len(devices) != batch.gpu_count[c] or len(set(devices)) != len(devices):
            return f"request {r} has devices {devices}, not {batch.gpu_count[c]} different ones"
        for d in devices:
            gpu[n, d] -= batch.gpu_milli[c]
            if gpu[n, d] < 0:
                return f"request {r} overfills device {d} of node {n}"
        if batch.groups is not None and members is not None and (g := int(batch.groups.group[c])) >= 0:
            if 0 < batch.limit[c] <= members[g, n]:
                return f"request {r} exceeds the limit of group {g} on node {n}"
            members[g, n] += 1
    return None


def unit_values(batch: Batch, objective: Objective) -> list[tuple[str, list[int]]]:
    """The placed amounts to maximise, most important first: (name, worth of one request of each class).

    guests: requests; cpu: thousandths of a core; gpu: thousandths of a device, then of a core. Times the
    weight.
    """
    amounts = {
        "guests": [("guests", np.ones_like(batch.cpu))],
        "cpu": [("cpu", batch.cpu)],
        "gpu": [("gpu", batch.gpu_total), ("cpu", batch.cpu)],
    }[objective]
    return [(name, (amount * batch.weight).tolist()) for name, amount in amounts]


def worth(batch: Batch, assignment: Assignment, objective: Objective, spare_devices: bool) -> tuple[int, ...]:
    """The levels of the objective, all to be maximised: placed amounts, -nodes opened, -whole devices
    broken.
    """
    placed = np.flatnonzero(assignment.node >= 0)
    classes = batch.request_class[placed]
    levels = [int(np.asarray(unit)[classes].sum()) for _, unit in unit_values(batch, objective)]
    nodes = np.unique(assignment.node[placed])
    levels.append(-int(batch.empty[nodes].sum()))
    if spare_devices:
        broken = {
            (int(assignment.node[r]), d)
            for r in placed.tolist()
            for d in assignment.devices[r]
            if batch.gpu_milli[batch.request_class[r]] < WHOLE and batch.free_gpu[assignment.node[r], d] == WHOLE
        }
        levels.append(-len(broken))
    return tuple(levels)
