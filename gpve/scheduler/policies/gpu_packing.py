"""GPU packing: GPUs in use first, then free ones on nodes in use, whole free nodes last.

CPU requests: 0. All GPUs of the node free: max(33 - count, count). Otherwise take the devices with the least left
that fit: if one of them was wholly free, max(50 - count of free ones taken, 33); else max(100 - (sum of left *
100/1000) / 10, 50). Whole numbers, divisions cut. As in the evaluation of Weng et al., USENIX ATC 2023.
"""

import numpy as np

from gpve.scheduler.policy import policy


@policy("gpu-packing")
def gpu_packing(free_cpu, free_mem, free_gpu, node, req):
    """0 to 100, whole numbers."""
    if req.gpu_count == 0:
        return 0.0
    free = 0
    for g in free_gpu:
        if g == 1000:
            free += 1
    if free == node.gpu_count:
        return float(max(33 - node.gpu_count, node.gpu_count))
    taken_free = 0
    left = 0
    last = -1
    last_device = -1
    for _ in range(req.gpu_count):
        # The next device in the order of (left, index).
        least = -1
        for d in range(len(free_gpu)):
            g = free_gpu[d]
            if g < req.gpu_milli or g < last or (g == last and d <= last_device):
                continue
            if least < 0 or g < free_gpu[least]:
                least = d
        last = free_gpu[least]
        last_device = least
        if last == 1000:
            taken_free += 1
        left += np.int64(last)
    if taken_free > 0:
        return float(max(50 - taken_free, 33))
    return float(max(100 - (left * 100 // 1000) // 10, 50))
