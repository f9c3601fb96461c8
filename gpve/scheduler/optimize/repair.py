"""A few nodes at a time: what a large batch leaves out often fits once a handful of nodes is repacked."""

from dataclasses import replace

import numpy as np

from gpve.scheduler.optimize.problem import Assignment, Batch, Ints

NODES = 6
"""Nodes repacked together: their model is solved in milliseconds, and more of them gained less in the same time."""
ROUND_LIMIT = 0.01
"""Deterministic time of one round at most."""
ROUND_COST = 0.002
"""Deterministic time that a round counts for at least: some are over before the solver is asked."""


def part_of(batch: Batch, answer: Assignment, nodes: Ints) -> tuple[Batch, Assignment, Ints]:
    """The batch of these nodes, with the requests on them and those placed nowhere; the answer in it; and its
    requests, as positions in ``batch``.
    """
    position = np.full(len(batch.free_cpu) + 1, -1, np.int64)  # the last entry is for node -1
    position[nodes] = np.arange(len(nodes))
    requests = np.flatnonzero((answer.node < 0) | (position[answer.node] >= 0))
    groups = batch.groups
    part = replace(
        batch,
        free_cpu=batch.free_cpu[nodes],
        free_mem=batch.free_mem[nodes],
        free_gpu=batch.free_gpu[nodes],
        node_type=batch.node_type[nodes],
        empty=batch.empty[nodes],
        request_class=batch.request_class[requests],
        groups=None if groups is None else replace(groups, members=groups.members[:, nodes]),
    )
    devices = tuple(answer.devices[r] for r in requests.tolist())
    return part, Assignment(position[answer.node[requests]], devices), requests


def with_part(answer: Assignment, nodes: Ints, requests: Ints, part: Assignment) -> Assignment:
    """The answer, with what ``part`` says of these requests on these nodes."""
    node, devices = answer.node.copy(), list(answer.devices)
    node[requests] = np.append(nodes, -1)[part.node]
    for r, chosen in zip(requests.tolist(), part.devices, strict=True):
        devices[r] = chosen
    return Assignment(node, tuple(devices))
