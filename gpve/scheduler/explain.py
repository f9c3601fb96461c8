"""Why a guest got its node, or why none: counts per reason, the nearest miss, the best nodes."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpve.model.reasons import Reason
from gpve.scheduler.columns import FLOOR, State
from gpve.scheduler.compiled import entry
from gpve.scheduler.groups import allowed
from gpve.scheduler.index import GROUP, evaluate, reason_of
from gpve.scheduler.place import take_up
from gpve.scheduler.policy import Policy


@entry
def _verdicts(state, score, uniform, c, rule, reasons, scores):
    take_up(state, c, np.uint64(0))
    for n in range(state.nodes.shape[0]):
        leaf = evaluate(state, score, uniform, c, n)
        if leaf <= FLOOR:
            reasons[n] = reason_of(leaf)
        elif rule >= 0 and not allowed(state, n, rule):
            reasons[n] = GROUP
        else:
            reasons[n] = 0
            scores[n] = leaf


@dataclass(frozen=True)
class NearestMiss:
    """The node that lacks least, and what."""

    node: int
    reason: Reason
    cpu_milli: int
    """How much is short; 0 if enough is left."""
    memory_mib: int
    gpus: int
    """Devices short."""


@dataclass(frozen=True)
class Explanation:
    """What each node says to one request now."""

    counts: dict[Reason, int]
    """Nodes by reason; `Reason.FITS` counts those that fit."""
    best: tuple[tuple[int, float], ...]
    """(node, score) of the best nodes that fit, best first."""
    nearest: NearestMiss | None
    """None if some node fits, or if there is no node."""


def explain(state: State, policy: Policy, request_class: int, rule: int, most: int = 5) -> Explanation:
    """Ask every node about a request of this class under this group rule (-1: none). Changes nothing."""
    count = len(state.nodes)
    reasons = np.zeros(count, dtype=np.int8)
    scores = np.full(count, -np.inf)
    _verdicts(state, policy.compiled[0], policy.uniform, request_class, rule, reasons, scores)
    counts = Counter(Reason(int(r)) for r in reasons)
    order = np.argsort(-scores, kind="stable")[:most]
    best = tuple((int(n), float(scores[n])) for n in order if scores[n] > FLOOR)
    nearest = None if best or not count else _nearest(state, request_class, reasons)
    return Explanation(dict(counts), best, nearest)


def _nearest(state: State, c: int, reasons: NDArray[np.int8]) -> NearestMiss:
    """Among the nodes with the nearest reason, the one whose lacks add up to the least share of the request."""
    cls = state.classes[c]
    top = int(reasons.max())
    at = np.flatnonzero(reasons == top)
    cpu = np.maximum(cls["cpu"] - state.free_cpu[at], 0)
    mem = np.maximum(cls["mem"] - state.free_mem[at], 0)
    gpus = np.maximum(cls["gpu_count"] - (state.free_gpu[at] >= cls["gpu_milli"]).sum(axis=1), 0)
    lack = cpu / max(cls["cpu"], 1) + mem / max(cls["mem"], 1) + gpus / max(cls["gpu_count"], 1)
    i = int(np.argmin(lack))
    return NearestMiss(int(at[i]), Reason(top), int(cpu[i]), int(mem[i]), int(gpus[i]))
