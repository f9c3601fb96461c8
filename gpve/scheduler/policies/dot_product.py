"""Dot-product: the node whose free resources point where the request points.

score = sum over CPU, memory and GPU of (asked / node's own) * (free before placing / node's own): Tetris'
alignment, Grandl et al., "Multi-resource Packing for Cluster Schedulers", SIGCOMM 2014.
"""

from gpve.scheduler.policy import policy


@policy("dot-product")
def dot_product(free_cpu, free_mem, free_gpu, node, req):
    """Alignment of the request with what is free; higher is better aligned."""
    score = (req.cpu / node.cpu) * (free_cpu / node.cpu) + (req.mem / node.mem) * (free_mem / node.mem)
    if req.gpu_count > 0:
        gpu = 0
        for g in free_gpu:
            gpu += max(g, 0)
        whole = 1000.0 * node.gpu_count
        score += (req.gpu_count * req.gpu_milli / whole) * (gpu / whole)
    return score
