"""A cluster's state built from its nodes, ready for decisions."""

import numpy as np
from numpy.typing import NDArray

from gpve.model.columns import Guests, Nodes
from gpve.model.errors import InputError
from gpve.model.reasons import Reason
from gpve.scheduler.columns import (
    CLOCK,
    MAX_DEVICES,
    NEWEST,
    NODE,
    REQUEST,
    SCALARS,
    SLOT,
    State,
    tree_levels,
)
from gpve.scheduler.fragmentation import Typical
from gpve.scheduler.requests import Requests, Terms

INDEX_BYTES = 48 << 20
"""Memory that the score index may take: beyond it, request classes share its trees."""


def state_of(nodes: Nodes, requests: Requests, typical: Typical, index_bytes: int = INDEX_BYTES) -> State:
    """The state of an empty cluster, its nodes open unless they join later (``add_s`` above 0)."""
    n = len(nodes)
    devices = int(nodes.gpu_count.max(initial=0))
    if devices > MAX_DEVICES:
        at = int(nodes.gpu_count.argmax())
        raise InputError(f"node {nodes.names[at]!r} has {devices} GPUs; at most {MAX_DEVICES} per node")
    types, eligible = eligibility(nodes, requests.terms)
    records = np.zeros(n, dtype=NODE)
    records["host_cpu"] = nodes.cpu_milli
    records["host_mem"] = nodes.memory_mib
    records["cpu"] = _overcommitted(nodes.cpu_milli, nodes.cpu_overcommit)
    records["mem"] = _overcommitted(nodes.memory_mib, nodes.memory_overcommit)
    records["gpu_count"] = nodes.gpu_count
    records["gpu_model"] = nodes.gpu_model
    records["type"] = types
    records["open"] = 1 if nodes.add_s is None else nodes.add_s <= 0
    records["index"] = np.arange(n)
    records["newer"] = np.arange(n) - 1
    records["older"] = np.where(np.arange(n) + 1 < n, np.arange(n) + 1, -1)
    levels = tree_levels(n)
    slots = max(4, index_bytes // (8 * int(levels[-1])))
    if len(requests.classes):
        slots = min(len(requests.classes), slots)
    free_slots = np.zeros(slots, dtype=SLOT)
    free_slots["request_class"] = -1
    pairs = 1
    while pairs < 2 * min(requests.tracked, 2 * max(len(requests.rules), 1) * max(n, 1)) + 2:
        pairs *= 2
    scalars = np.zeros(SCALARS, dtype=np.int64)
    scalars[CLOCK] = 0
    scalars[NEWEST] = 0 if n else -1
    free_gpu = np.where(np.arange(devices) < nodes.gpu_count[:, None], 1000, -1).astype(np.int32)
    return State(
        free_cpu=records["cpu"].copy(),
        free_mem=records["mem"].copy(),
        free_gpu=np.ascontiguousarray(free_gpu.reshape(n, devices)),
        nodes=records,
        classes=requests.classes.copy(),
        eligible=eligible,
        request=request_record(typical),
        # Not zeroed: a tree is built before it is read, and untouched pages cost nothing.
        tree=np.empty((slots, int(levels[-1])), dtype=np.float64),
        levels=levels,
        slots=free_slots,
        rules=requests.rules,
        avoid=requests.avoid,
        pair_keys=np.full(pairs, -1, dtype=np.int64),
        pair_counts=np.zeros(pairs, dtype=np.int32),
        scalars=scalars,
    )


def _overcommitted(physical: NDArray[np.int64], ratio: NDArray[np.float64] | None) -> NDArray[np.int64]:
    return physical if ratio is None else np.floor(physical * ratio + 1e-6).astype(np.int64)


def request_record(typical: Typical) -> NDArray[np.void]:
    request = np.zeros(1, dtype=REQUEST)
    k = len(typical)
    request["typical_count"] = k
    request["typical_share"][0, :k] = typical.share
    request["typical_cpu"][0, :k] = typical.cpu
    request["typical_gpu_count"][0, :k] = typical.gpu_count
    request["typical_gpu_milli"][0, :k] = typical.gpu_milli
    request["typical_models"][0, :k] = typical.models
    return request


def eligibility(nodes: Nodes, terms: tuple[Terms, ...]) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """(N,) type of each node, and (constraints, types): 0 or the `Reason` that rules the type out."""
    kinds: dict[tuple[int, frozenset[tuple[str, str]], frozenset[str]], int] = {}
    types = np.zeros(len(nodes), dtype=np.int32)
    for i in range(len(nodes)):
        labels = frozenset(nodes.labels[i].items()) if nodes.labels else frozenset()
        taints = nodes.taints[i] if nodes.taints else frozenset()
        types[i] = kinds.setdefault((int(nodes.gpu_model[i]), labels, taints), len(kinds))
    eligible = np.zeros((max(len(terms), 1), max(len(kinds), 1)), dtype=np.int8)
    for row, term in enumerate(terms):
        for (model, labels, taints), column in kinds.items():
            name = nodes.gpu_model_names[model] if model >= 0 else None
            if term.gpu_models is not None and name not in term.gpu_models:
                eligible[row, column] = Reason.GPU_MODEL
            elif term.selector is not None and not term.selector <= labels:
                eligible[row, column] = Reason.SELECTOR
            elif not taints <= (term.tolerations or frozenset()):
                eligible[row, column] = Reason.TAINT
    return types, eligible


def check_models(guests: Guests, nodes: Nodes) -> None:
    """Raise `InputError` if a guest admits only GPU models that no node has."""
    if guests.gpu_models is None:
        return
    known = set(nodes.gpu_model_names)
    for code in np.unique(guests.gpu_models[guests.gpu_models >= 0]):
        strangers = set(guests.gpu_model_sets[code]) - known
        if strangers:
            row = int(np.argmax(guests.gpu_models == code))
            raise InputError(
                f"guest {guests.ids[row].as_py()!r} asks for GPU model {sorted(strangers)[0]!r}, which no node has; "
                f"the cluster has {', '.join(sorted(known)) or 'no GPUs'}",
                column="gpu_models",
            )
