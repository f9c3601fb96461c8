"""GPU clustering: requests of one shape together, so that shapes do not mix on a node.

CPU requests: 0. b = 25 (8000 - left) / 8000. The shape of a request is "a share" or its number of whole GPUs.
The node carries that shape and no other: b + 75; that one among others: b + 50; no GPU request: b + 25; only
others: b. Whole numbers, divisions cut. As in the evaluation of Weng et al., USENIX ATC 2023.
"""

import numpy as np

from gpve.scheduler.policy import policy

# node.state[0] counts shares, node.state[k] requests of k whole GPUs (those beyond 14 together).
_SHAPES = 15


@policy("gpu-clustering")
def gpu_clustering(free_cpu, free_mem, free_gpu, node, req):
    """0 to 100, whole numbers."""
    if req.gpu_count == 0:
        return 0.0
    left = 0
    for g in free_gpu:
        left += np.int64(max(g, 0))
    base = 25 * (8000 - left) // 8000
    shape = 0 if req.gpu_count == 1 and req.gpu_milli < 1000 else min(req.gpu_count, _SHAPES - 1)
    shapes = 0
    for s in range(_SHAPES):
        if node.state[s] > 0:
            shapes += 1
    if node.state[shape] > 0:
        return float(base + 75) if shapes == 1 else float(base + 50)
    return float(base + 25) if shapes == 0 else float(base)


@gpu_clustering.on_change
def _keep(free_cpu, free_mem, free_gpu, node, req, change):
    if req.gpu_count > 0:
        shape = 0 if req.gpu_count == 1 and req.gpu_milli < 1000 else min(req.gpu_count, _SHAPES - 1)
        node.state[shape] += change
