"""First-fit: the first node, in node order, that fits.

Johnson, "Near-optimal bin packing algorithms", MIT 1973.
"""

from gpve.scheduler.policy import policy


@policy("first-fit")
def first_fit(free_cpu, free_mem, free_gpu, node, req):
    """The same for every node: node order decides."""
    return 0.0
