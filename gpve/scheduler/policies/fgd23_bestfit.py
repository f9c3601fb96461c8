"""The best-fit of the FGD evaluation: least left, measured against the largest node of that cluster.

score = int(100 (1 - (0.5 * cpu left / 128,000 + 0.5 * GPU left / 8,000))), left after placing, memory ignored. The
evaluation then maps the scores of all nodes that fit onto 0..100 linearly, which alters no winner and no tie at
the top. Weng et al., USENIX ATC 2023.
"""

import numpy as np

from gpve.scheduler.policy import policy


@policy("fgd23-bestfit")
def fgd23_bestfit(free_cpu, free_mem, free_gpu, node, req):
    """0 to 100, whole numbers."""
    gpu = 0
    for g in free_gpu:
        gpu += np.int64(max(g, 0))
    left = 0.5 * ((free_cpu - req.cpu) / 128000.0) + 0.5 * ((gpu - req.gpu_milli * req.gpu_count) / 8000.0)
    return float(int(100.0 * (1.0 - left)))
