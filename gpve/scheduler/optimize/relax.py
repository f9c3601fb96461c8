"""Rows that every placement satisfies, on counts of request classes per class of equal nodes.

For node class k with M nodes and X[c] requests of class c on them together, and any whole number s >= 1:

    sum over c of floor(cpu_c / s) X[c]  <=  M floor(room / s)

and the same with memory, and with devices: sum of gpu_count_c floor(gpu_milli_c / s) X[c] <= M times the sum
over devices of floor(left / s). Proof: floor(a / s) + floor(b / s) <= floor((a + b) / s), so on one node (or
device) the floors sum to at most the floor of the sum, which is at most floor(room / s); add up the nodes. s
= 1 is the resource itself; s = room // (q + 1) + 1 says that at most q requests larger than room / (q + 1)
share a room (with q = 1: halves), which are the step functions among dual-feasible functions (Fekete and
Schepers 2001, "New classes of fast lower bounds for bin packing problems"). Last, X[c] <= M fit[c], which one
node takes of the class alone, all resources at once. Limits of groups only enter through fit; to leave rows
out relaxes, and a relaxation errs on the safe side.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpve.scheduler.optimize.problem import WHOLE, Batch, NodeClass

STEPS = 6
"""Largest q of the rows above."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Relaxation:
    """Of one node class: ``coefficients`` (rows, F) @ X (F,) <= rooms (rows,) times nodes, for the F classes
    that fit.
    """

    nodes: int
    fit: list[int]
    coefficients: Floats
    rooms: Floats


def relaxation(batch: Batch, node_class: NodeClass, *, opened: int | None = None) -> Relaxation:
    """The rows of one node class, without those that repeat or cannot bind.

    ``opened``: the fewest of its nodes that may be in use where that varies; by default all are.
    """
    fit = sorted(node_class.fit)
    counts = batch.count[fit]
    in_use = len(node_class.nodes) if opened is None else opened
    steps = np.arange(2, STEPS + 2)
    coefficients, rooms = [], []
    for sizes, room in ((batch.cpu[fit], node_class.cpu), (batch.mem[fit], node_class.mem)):
        s = np.concatenate([[1], room // steps + 1])
        coefficients.append(sizes // s[:, None])
        rooms.append(room // s)
    milli, count = batch.gpu_milli[fit], batch.gpu_count[fit]
    if count.any():
        # Every size of a share is tried: there are few, and each may be the one that fits badly.
        s = np.unique(np.concatenate([[1], WHOLE // steps + 1, milli[count > 0]]))
        coefficients.append(count * (milli // s[:, None]))
        rooms.append((np.array(node_class.gpu, np.int64) // s[:, None]).sum(axis=1))
    coefficients.append(np.eye(len(fit), dtype=np.int64))
    rooms.append(np.array([node_class.fit[c] for c in fit], np.int64))
    all_rows, all_rooms = np.concatenate(coefficients), np.concatenate(rooms)
    # Rows that all requests together do not fill cannot bind.
    binding = all_rows @ counts > all_rooms * in_use
    smallest: dict[bytes, tuple[int, int]] = {}
    for i, room in zip(np.flatnonzero(binding).tolist(), all_rooms[binding].tolist(), strict=True):
        key = all_rows[i].tobytes()
        smallest[key] = min(smallest.get(key, (room, i)), (room, i))
    kept = [i for _, i in smallest.values()]
    return Relaxation(len(node_class.nodes), fit, all_rows[kept].astype(np.float64), all_rooms[kept].astype(np.float64))


def coarse(batch: Batch, most: int) -> tuple[Batch, NDArray[np.int64]]:
    """A batch of about ``most`` classes at most that is easier everywhere, and (C,) the new class of each old
    one.

    Classes with equal GPUs, admission and limits of groups are merged if CPU and memory lie between the same
    quantiles; a merged class asks for the least CPU and the least memory of its members. What fits, still
    fits.
    """
    classes = len(batch.cpu)
    if classes <= most:
        return batch, np.arange(classes)
    others = np.column_stack([batch.gpu_count, batch.gpu_milli, batch.eligible, batch.limit])
    levels = max(2, int((most / len(np.unique(others, axis=0))) ** 0.5))
    steps = np.linspace(0, 1, levels + 1)[1:-1]
    cells = [np.searchsorted(np.quantile(v, steps), v, side="right") for v in (batch.cpu, batch.mem)]
    _, first, merged = np.unique(np.column_stack([others, *cells]), axis=0, return_index=True, return_inverse=True)
    merged = merged.reshape(-1)
    cpu, mem = batch.cpu[first].copy(), batch.mem[first].copy()
    np.minimum.at(cpu, merged, batch.cpu)
    np.minimum.at(mem, merged, batch.mem)
    return Batch(
        free_cpu=batch.free_cpu,
        free_mem=batch.free_mem,
        free_gpu=batch.free_gpu,
        node_type=batch.node_type,
        empty=batch.empty,
        cpu=cpu,
        mem=mem,
        gpu_count=batch.gpu_count[first],
        gpu_milli=batch.gpu_milli[first],
        eligible=batch.eligible[first],
        weight=batch.weight[first],
        request_class=merged[batch.request_class],
    ), merged
