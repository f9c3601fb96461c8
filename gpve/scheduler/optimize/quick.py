"""Quick answers to a batch, before any model is built: first-fit decreasing, running nodes before empty ones.

Where all requests fit, what is left of the objective is to open few nodes, which first-fit decreasing does
well and a heuristic that places one request after the other seldom does.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gpve.scheduler.optimize.pack import pack
from gpve.scheduler.optimize.problem import Assignment, Batch, Bools, Ints
from gpve.scheduler.optimize.relax import Floats


def quick_answers(batch: Batch, hint: Assignment, preference: Floats) -> Iterator[Assignment]:
    """Answers that may be better than the hint, those that keep most of it first.

    ``preference`` (N,): of the empty nodes, larger ones are tried first.
    """
    orders = _orders(batch, preference)
    stays = (hint.node >= 0) & ~batch.empty[np.maximum(hint.node, 0)]
    if batch.groups is None and stays.any():
        rest = np.flatnonzero(~stays)
        left = _without(batch, hint, stays, rest)
        for order in orders:
            packed = pack(left, order)
            node, devices = hint.node.copy(), list(hint.devices)
            node[rest] = packed.node
            for r, chosen in zip(rest.tolist(), packed.devices, strict=True):
                devices[r] = chosen
            yield Assignment(node, tuple(devices))
    for order in orders:
        yield pack(batch, order)


def _without(batch: Batch, hint: Assignment, stays: Bools, rest: Ints) -> Batch:
    """The batch of the requests ``rest``, with those that stay where the hint has them."""
    cpu, mem, gpu = batch.free_cpu.copy(), batch.free_mem.copy(), batch.free_gpu.copy()
    nodes, classes = hint.node[stays], batch.request_class[stays]
    np.subtract.at(cpu, nodes, batch.cpu[classes])
    np.subtract.at(mem, nodes, batch.mem[classes])
    for r in np.flatnonzero(stays).tolist():
        if hint.devices[r]:
            gpu[hint.node[r], list(hint.devices[r])] -= batch.gpu_milli[batch.request_class[r]]
    return replace(batch, free_cpu=cpu, free_mem=mem, free_gpu=gpu, request_class=batch.request_class[rest])


def _orders(batch: Batch, preference: Floats) -> list[Ints]:
    """Orders of all nodes: running ones first, by what is left, the most or the least; empty ones as preferred,
    or the largest.
    """
    size = batch.free_cpu / max(1, batch.free_cpu.max()) + batch.free_mem / max(1, batch.free_mem.max())
    gpu = np.maximum(batch.free_gpu, 0).sum(axis=1)
    orders = []
    for sign in (1, -1):
        for liked in ([preference] if preference.any() else []) + [np.zeros(len(size))]:
            by = (np.where(batch.empty, -size, sign * size), np.where(batch.empty, -gpu, sign * gpu))
            orders.append(np.lexsort((*by, np.where(batch.empty, -liked, 0.0), batch.empty)))
    return orders
