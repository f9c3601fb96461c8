"""fits(): the one answer to "does this request fit on this node, and if not, what is short?"."""

from gpve.model.reasons import Reason
from gpve.scheduler.compiled import inlined

UNSCHEDULABLE = int(Reason.UNSCHEDULABLE)
TOO_LARGE = int(Reason.TOO_LARGE)
SEVERAL = int(Reason.SEVERAL)
GPU = int(Reason.GPU)
MEMORY = int(Reason.MEMORY)
CPU = int(Reason.CPU)


@inlined
def fits(free_cpu, free_mem, free_gpu, node, req, eligible):
    """0 if the request fits on the node now, else the code of the `Reason`.

    ``eligible`` is the verdict on model, labels and taints (0 or a reason); ``free_gpu`` the node's (D,)
    devices. GPUs: ``gpu_count`` devices, each with ``gpu_milli`` left. Overcommit lets claims sum to more than the
    node physically has; no single guest may ask for more.
    """
    if node.open == 0:
        return UNSCHEDULABLE
    if eligible != 0:
        return eligible
    if req.cpu > node.host_cpu or req.mem > node.host_mem or req.gpu_count > node.gpu_count:
        return TOO_LARGE
    short = 0
    reason = 0
    if req.cpu > free_cpu:
        short += 1
        reason = CPU
    if req.mem > free_mem:
        short += 1
        reason = MEMORY
    if req.gpu_count > 0:
        enough = 0
        for g in free_gpu:
            if g >= req.gpu_milli:
                enough += 1
        if enough < req.gpu_count:
            short += 1
            reason = GPU
    if short > 1:
        return SEVERAL
    return reason
