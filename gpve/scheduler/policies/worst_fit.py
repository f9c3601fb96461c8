"""Worst-fit: the node with the largest share left of its scarcer resource. Spreads.

score = min(cpu left / cpu, memory left / memory) after placing. Johnson 1973, for one dimension.
"""

from gpve.scheduler.policy import policy


@policy("worst-fit")
def worst_fit(free_cpu, free_mem, free_gpu, node, req):
    """Share left after placing, of the scarcer of CPU and memory; 0 full, 1 empty."""
    return min((free_cpu - req.cpu) / node.cpu, (free_mem - req.mem) / node.mem)
