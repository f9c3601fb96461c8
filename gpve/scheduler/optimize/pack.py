"""First-fit decreasing over request classes, all nodes at once: a packing in milliseconds, for hints and
upper bounds.
"""

import numpy as np

from gpve.scheduler.optimize.problem import WHOLE, Assignment, Batch, Ints


def pack(batch: Batch, node_order: Ints) -> Assignment:
    """First-fit decreasing: classes by their largest share of all room, each into the nodes in the order
    given.

    First-fit of one class is a running sum: a node takes what it can of what the nodes before it left over.
    """
    cpu, mem = batch.free_cpu[node_order].copy(), batch.free_mem[node_order].copy()
    gpu = batch.free_gpu[node_order].astype(np.int64)
    members = None if batch.groups is None else batch.groups.members[:, node_order].copy()
    node_of = np.full(len(batch.request_class), -1, np.int64)
    devices: list[tuple[int, ...]] = [()] * len(batch.request_class)
    by_class = np.split(np.argsort(batch.request_class, kind="stable"), np.cumsum(batch.count)[:-1])
    for c in _descending(batch):
        a, m, k, milli = (int(v[c]) for v in (batch.cpu, batch.mem, batch.gpu_count, batch.gpu_milli))
        fit = np.where(batch.eligible[c, batch.node_type[node_order]], len(by_class[c]), 0)
        fit = np.where((cpu >= a) & (mem >= m), fit, 0)
        if a > 0:
            fit = np.minimum(fit, cpu // a)
        if m > 0:
            fit = np.minimum(fit, mem // m)
        if k > 0:
            # Several devices with shares: one request at a time would be exact, whole multiples of k are
            # enough.
            slots = np.where(gpu >= milli, gpu // milli, 0)
            most = slots.sum(axis=1) if k == 1 else (slots > 0).sum(axis=1) // k
            fit = np.minimum(fit, most)
        group = -1 if batch.groups is None else int(batch.groups.group[c])
        if members is not None and batch.limit[c] > 0:
            fit = np.minimum(fit, np.maximum(0, batch.limit[c] - members[group]))
        fit = np.maximum(fit, 0)
        before = np.cumsum(fit) - fit
        taken = np.clip(len(by_class[c]) - before, 0, fit)
        cpu -= taken * a
        mem -= taken * m
        if members is not None and group >= 0:
            members[group] += taken
        used = np.flatnonzero(taken)
        requests = by_class[c][: int(taken.sum())]
        node_of[requests] = np.repeat(node_order[used], taken[used])
        if k > 0:
            at = 0
            for n in used.tolist():
                for chosen in _take_devices(gpu[n], int(taken[n]), k, milli):
                    devices[int(requests[at])] = chosen
                    at += 1
    return Assignment(node_of, tuple(devices))


def fill(batch: Batch, node_order: Ints) -> Assignment:
    """Node by node: the class whose shares of the node point most the way of what is left, as long as one
    fits.

    The score is the sum over CPU, memory and GPU of (size / room of the node) (left / room of the node): the
    dot product of Panigrahy, Talwar, Uyeda, Wieder 2011, "Heuristics for vector bin packing". An eighth of
    what fits is taken at a time, at least one request. Slower than `pack` and better where requests differ in
    shape.
    """
    sizes = np.column_stack([batch.cpu, batch.mem, batch.gpu_total]).astype(np.float64)
    limit = np.where(batch.limit > 0, batch.limit, np.iinfo(np.int64).max)
    left = batch.count.copy()
    by_class = np.split(np.argsort(batch.request_class, kind="stable"), np.cumsum(batch.count)[:-1])
    node_of = np.full(len(batch.request_class), -1, np.int64)
    devices: list[tuple[int, ...]] = [()] * len(batch.request_class)
    for n in node_order.tolist():
        gpu = batch.free_gpu[n].astype(np.int64)
        room = np.array([batch.free_cpu[n], batch.free_mem[n], np.maximum(gpu, 0).sum()], np.float64)
        free = room.copy()
        scale = 1 / np.maximum(1.0, room) ** 2
        members = None if batch.groups is None else batch.groups.members[:, n].copy()
        open_to = batch.eligible[:, batch.node_type[n]] & (left > 0)
        while True:
            if members is not None and batch.groups is not None:
                open_to &= np.where(batch.groups.group >= 0, members[batch.groups.group], 0) < limit
            # What no longer fits on this node never fits on it again.
            candidates = np.flatnonzero(open_to)
            candidates = candidates[(sizes[candidates] <= free).all(axis=1)]
            if (wants := batch.gpu_count[candidates] > 0).any():
                enough = (gpu >= batch.gpu_milli[candidates][:, None]).sum(axis=1) >= batch.gpu_count[candidates]
                candidates = candidates[~wants | enough]
            if len(candidates) == 0:
                break
            c = int(candidates[np.argmax(sizes[candidates] @ (free * scale))])
            take = 1
            if batch.gpu_count[c] == 0 and batch.limit[c] == 0 and sizes[c].any():
                alone = np.min(free[sizes[c] > 0] // sizes[c][sizes[c] > 0])
                take = max(1, min(int(left[c]), int(alone) // 8))
            start = len(by_class[c]) - int(left[c])
            for r in by_class[c][start : start + take].tolist():
                node_of[r] = n
                if batch.gpu_count[c] > 0:
                    k, milli = int(batch.gpu_count[c]), int(batch.gpu_milli[c])
                    devices[r] = _take_devices(gpu, 1, k, milli)[0]
            free -= take * sizes[c]
            left[c] -= take
            if members is not None and batch.groups is not None and batch.groups.group[c] >= 0:
                members[batch.groups.group[c]] += take
            open_to[:] = False
            open_to[candidates] = left[candidates] > 0
        if not left.any():
            break
    return Assignment(node_of, tuple(devices))


def _descending(batch: Batch) -> list[int]:
    """Classes with requests: those with more devices first, then by their largest share of all room."""
    rooms = [max(1, int(v.sum())) for v in (batch.free_cpu, batch.free_mem, np.maximum(batch.free_gpu, 0))]
    shares = np.max([batch.cpu / rooms[0], batch.mem / rooms[1], batch.gpu_total / rooms[2]], axis=0)
    order = np.lexsort((-shares, -batch.gpu_count))
    return [c for c in order.tolist() if batch.count[c] > 0]


def _take_devices(gpu: Ints, taken: int, k: int, milli: int) -> list[tuple[int, ...]]:
    """Take devices of one node for ``taken`` requests: shares on the device with least left, best for what
    follows.
    """
    chosen = []
    for _ in range(taken):
        fitting = np.flatnonzero(gpu >= milli)
        if milli < WHOLE:
            fitting = fitting[np.argsort(gpu[fitting], kind="stable")]
        devices = tuple(sorted(fitting[:k].tolist()))
        gpu[list(devices)] -= milli
        chosen.append(devices)
    return chosen
