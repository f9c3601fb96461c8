"""FGD, fragmentation gradient descent: the node (and device) whose fragmentation grows the least.

With F(n) the GPU capacity of node n that a request drawn from the trace's typical ones could not use
(`gpve.scheduler.fragmentation`), and d = (F(n) - F(n after)) / 1000 whole GPUs:

    score = int(100 / (1 + exp(-d)))

the integer cut included, since ties decide. A share of a GPU tries every device that fits and takes the best.
Weng et al., "Beware of Fragmentation", USENIX ATC 2023.
"""

import math

import numba
import numpy as np

from gpve.scheduler.fragmentation import fragment
from gpve.scheduler.policy import policy


@numba.njit(error_model="numpy")
def _gradient(before, after):
    """The score of going from F = ``before`` to ``after`` (thousandths of GPUs)."""
    return float(int(100.0 * (1.0 / (1.0 + math.exp(-((before - after) / 1000.0))))))


@numba.njit(error_model="numpy")
def _best_share(free_cpu, free_gpu, node, req):
    """(score, device) of the best device for a share."""
    after = free_gpu.copy()
    best = -1.0
    device = -1
    before = node.state[0]
    for d in range(len(free_gpu)):
        left = free_gpu[d]
        if left < req.gpu_milli:
            continue
        twin = False
        for e in range(d):
            if free_gpu[e] == left:
                twin = True  # the same score as an earlier device, which wins the tie
                break
        if twin:
            continue
        after[d] = left - req.gpu_milli
        score = _gradient(before, fragment(free_cpu - req.cpu, after, node, req))
        after[d] = left
        if score > best:
            best = score
            device = d
    return best, device


@policy("fgd")
def fgd(free_cpu, free_mem, free_gpu, node, req):
    """0 to 100; 50 is no change of fragmentation."""
    if req.gpu_count == 1 and req.gpu_milli < 1000:
        return _best_share(free_cpu, free_gpu, node, req)[0]
    after = free_gpu.copy()
    for _ in range(req.gpu_count):
        least = -1
        for d in range(len(after)):
            # A device taken already has too little left: shares of 500 or less may come back to it, so mark it.
            if free_gpu[d] == after[d] and after[d] >= req.gpu_milli and (least < 0 or after[d] < after[least]):
                least = d
        after[least] -= req.gpu_milli
    return _gradient(node.state[0], fragment(free_cpu - req.cpu, after, node, req))


@fgd.on_device
def _device(free_cpu, free_mem, free_gpu, node, req):
    return np.int64(_best_share(free_cpu, free_gpu, node, req)[1])


@fgd.on_change
def _keep(free_cpu, free_mem, free_gpu, node, req, change):
    node.state[0] = fragment(free_cpu, free_gpu, node, req)
