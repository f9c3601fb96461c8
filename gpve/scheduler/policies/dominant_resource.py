"""Dominant-resource: the node whose free capacity the request uses the most of, in the resource that matters most.

score = max over CPU, memory and GPU of asked / free before placing: 1 is an exact fit. The dominant share is that
of Ghodsi et al., "Dominant Resource Fairness", NSDI 2011, taken of what a node has left, as open-simulator's
"Simon" score does.
"""

from gpve.scheduler.policy import policy


@policy("dominant-resource")
def dominant_resource(free_cpu, free_mem, free_gpu, node, req):
    """The largest share of what is free that the request takes."""
    share = 0.0
    if req.cpu > 0:
        share = req.cpu / free_cpu
    if req.mem > 0:
        share = max(share, req.mem / free_mem)
    if req.gpu_count > 0:
        gpu = 0
        for g in free_gpu:
            gpu += max(g, 0)
        share = max(share, req.gpu_count * req.gpu_milli / gpu)
    return share
