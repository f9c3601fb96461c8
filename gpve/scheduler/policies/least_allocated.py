"""Least-allocated: the node with the largest mean share left of CPU, memory and (where it has some) GPU. Spreads.

score = mean of (left after placing / node's own), as Kubernetes' NodeResourcesFit with LeastAllocated and equal
weights (there cut to whole percents, here not).
"""

from gpve.scheduler.policy import policy


@policy("least-allocated")
def least_allocated(free_cpu, free_mem, free_gpu, node, req):
    """Mean share left after placing."""
    left = (free_cpu - req.cpu) / node.cpu + (free_mem - req.mem) / node.mem
    if node.gpu_count == 0:
        return left / 2
    gpu = 0
    for g in free_gpu:
        gpu += max(g, 0)
    return (left + (gpu - req.gpu_count * req.gpu_milli) / (1000.0 * node.gpu_count)) / 3
