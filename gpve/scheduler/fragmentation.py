"""Fragmentation of GPUs, after Weng et al., USENIX ATC 2023, and the typical requests that it is measured by.

For a node with g_i thousandths left on device i and R = sum g_i, a typical request m cannot use F_n(m):

- m without GPUs: all of R (class XL if the CPU suffices, else XR);
- m does not admit the node's model: R (NA);
- the CPU suffices and at least gpu_count devices have g_i >= gpu_milli: the sum of the g_i below gpu_milli (Q2), the
  rest can be used (Q3);
- otherwise R: the GPUs suffice but the CPU does not (Q4), the CPU but not the GPUs (Q2), neither (Q1).

F(n) = sum over m of p_m F_n(m) = Q1 + Q2 + Q4 + XL + XR + NA, in thousandths of GPUs.
"""

from dataclasses import dataclass

import numpy as np

from gpve.model.columns import Guests
from gpve.scheduler.columns import MAX_TYPICAL
from gpve.scheduler.compiled import kernel
from gpve.scheduler.requests import encode

CLASSES = ("q1", "q2", "q3", "q4", "xl", "xr", "na")
"""Classes of free GPU capacity, in the order of the arrays; all but q3 are fragments."""


@kernel
def fragment_classes(free_cpu, free_gpu, node, req):
    """The node's free GPU capacity by class: (q1, q2, q3, q4, xl, xr, na), thousandths of GPUs.

    The sums run over the typical requests in their order, class by class: placements depend on the last bit.
    """
    q1 = q2 = q3 = q4 = xl = xr = na = 0.0
    free = np.int64(0)
    for g in free_gpu:
        free += max(g, 0)
    model = np.int64(1) << max(node.gpu_model, 0)
    for m in range(req.typical_count):
        share = req.typical_share[m]
        cpu_fits = free_cpu >= req.typical_cpu[m]
        if req.typical_gpu_count[m] == 0:
            if cpu_fits:
                xl += share * free
            else:
                xr += share * free
            continue
        if req.typical_models[m] & model == 0:
            na += share * free
            continue
        milli = req.typical_gpu_milli[m]
        enough = 0
        small = np.int64(0)
        for g in free_gpu:
            enough += g >= milli
            small += max(g, 0) if g < milli else 0
        gpu_fits = enough >= req.typical_gpu_count[m]
        if cpu_fits and gpu_fits:
            q2 += share * small
            q3 += share * (free - small)
        elif gpu_fits:
            q4 += share * free
        elif cpu_fits:
            q2 += share * free
        else:
            q1 += share * free
    return q1, q2, q3, q4, xl, xr, na


@kernel
def fragment(free_cpu, free_gpu, node, req):
    """F(n) of a node, thousandths of GPUs."""
    q1, q2, _, q4, xl, xr, na = fragment_classes(free_cpu, free_gpu, node, req)
    return q1 + q2 + q4 + xl + xr + na


@dataclass(frozen=True)
class Typical:
    """The commonest request shapes of a trace, with their shares among themselves. T shapes."""

    share: np.ndarray
    """(T,) float64, sums to 1."""
    cpu: np.ndarray
    gpu_count: np.ndarray
    gpu_milli: np.ndarray
    models: np.ndarray
    """(T,) int64: bit m set if GPU model m of the cluster is admitted."""
    covered: float
    """Share of the trace's guests that have one of these shapes."""

    def __len__(self) -> int:
        return len(self.share)


def model_mask(admitted: tuple[str, ...] | None, model_names: tuple[str, ...]) -> int:
    """Bits of the cluster's GPU models that a constraint admits; None admits all."""
    if admitted is None:
        return -1
    return sum(1 << m for m, name in enumerate(model_names) if name in admitted)


def typical_requests(
    guests: Guests, model_names: tuple[str, ...], popularity: float = 0.95, most: int = MAX_TYPICAL
) -> Typical:
    """The shapes (milli-CPU, gpu_milli, GPU count, models) that make up ``popularity`` of the guests.

    Commonest first, ties by the shape itself, larger first (the evaluation's rule); at most ``most``.
    """
    n = len(guests)
    zeros = np.zeros(n, dtype=np.int32)
    gpu_count = zeros if guests.gpu_count is None else guests.gpu_count
    gpu_milli = zeros if guests.gpu_milli is None else guests.gpu_milli
    models = zeros - 1 if guests.gpu_models is None else guests.gpu_models
    code, first = encode([guests.cpu_milli, gpu_milli, gpu_count, models])
    counts = np.bincount(code, minlength=len(first))
    # Ties between constraints go by their text.
    texts = ["", *("|".join(names) for names in guests.gpu_model_sets)]
    rank = np.argsort(np.argsort(np.array(texts)))[models[first] + 1]
    order = np.lexsort((-rank, -gpu_count[first], -gpu_milli[first], -guests.cpu_milli[first], -counts))
    enough = int(np.searchsorted(np.cumsum(counts[order]), popularity * n)) + 1
    kept = order[: min(enough, most)]
    rows = first[kept]
    share = counts[kept] / n if n else np.zeros(0)
    # Of the counts, not of the shares: the evaluation's placements hang on the last bit.
    covered = float(counts[kept].sum() / n) if n else 0.0
    masks = [model_mask(None if m < 0 else guests.gpu_model_sets[m], model_names) for m in models[rows].tolist()]
    return Typical(
        share=share / covered,
        cpu=guests.cpu_milli[rows],
        gpu_count=gpu_count[rows],
        gpu_milli=gpu_milli[rows],
        models=np.array(masks, dtype=np.int64),
        covered=covered,
    )
