"""Random: each node that fits with the same chance, each device that fits too.

The draw is a counter hash of (seed, guest): no state, so that any decision can be repeated alone.
"""

import numpy as np

from gpve.scheduler.policy import policy


@policy("random", uniform=True)
def random(free_cpu, free_mem, free_gpu, node, req):
    """The same for every node: the draw decides among all that fit."""
    return 0.0


@random.on_device
def _device(free_cpu, free_mem, free_gpu, node, req):
    fitting = 0
    for g in free_gpu:
        if g >= req.gpu_milli:
            fitting += 1
    # The node took the low 32 bits of the draw.
    k = np.int64(req.draw >> np.uint64(32)) % fitting
    for d in range(len(free_gpu)):
        if free_gpu[d] >= req.gpu_milli:
            if k == 0:
                return d
            k -= 1
    return -1
