"""The dot-product of the FGD evaluation: measured against the largest node, and the LEAST aligned wins.

score = int(100 (1 - 0.5 ((cpu free / 128,000) (cpu asked / 128,000) + (GPU free / 8,000) (GPU asked / 8,000)))), free
before placing, memory ignored. Weng et al., USENIX ATC 2023.
"""

import numpy as np

from gpve.scheduler.policy import policy


@policy("fgd23-dotprod")
def fgd23_dotprod(free_cpu, free_mem, free_gpu, node, req):
    """0 to 100, whole numbers."""
    gpu = 0
    for g in free_gpu:
        gpu += np.int64(max(g, 0))
    asked = req.gpu_milli * req.gpu_count
    dot = (free_cpu / 128000.0) * (req.cpu / 128000.0) + (gpu / 8000.0) * (asked / 8000.0)
    return float(int(100.0 * (1.0 - 0.5 * dot)))
