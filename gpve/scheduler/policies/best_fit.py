"""Best-fit: the node with the least left after placing. Packs.

score = -(cpu left / cpu + memory left / memory + GPU left / GPU), each left *after* placing, as a share of
the node; GPU only on nodes that have some. Johnson 1973 for one dimension; the sum over resources is what
Panigrahy et al., "Heuristics for Vector Bin Packing", 2011, call the L1 norm of the leftover.
"""

from gpve.scheduler.policy import policy


@policy("best-fit")
def best_fit(free_cpu, free_mem, free_gpu, node, req):
    """Minus the sum of the shares left after placing."""
    left = (free_cpu - req.cpu) / node.cpu + (free_mem - req.mem) / node.mem
    if node.gpu_count > 0:
        gpu = 0
        for g in free_gpu:
            gpu += max(g, 0)
        left += (gpu - req.gpu_count * req.gpu_milli) / (1000.0 * node.gpu_count)
    return -left
