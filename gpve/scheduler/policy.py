"""What a placement policy is, and how one is written.

    @policy("worst-fit")
    def worst_fit(free_cpu, free_mem, free_gpu, node, req):
        return min((free_cpu - req.cpu) / node.cpu, (free_mem - req.mem) / node.mem)

A policy is a *score* of one node for one request: higher wins, equal scores go to node order, a node that
does not fit is never asked. It may bring a *device* choice (which GPU takes a share) and *state* of its own
on each node. All three see the same five things:

=========== ==================================================================================
free_cpu    int, milli-CPU left on the node (before placing)
free_mem    int, MiB left
free_gpu    (D,) int32, thousandths left on each device; -1 where the node has no such device
node        record ``NODE``: cpu, mem, gpu_count, gpu_model, guests, state[16], ...
req         record ``REQUEST``: cpu, mem, gpu_count, gpu_milli, and the trace's typical requests
=========== ==================================================================================

A score must depend on these alone: the core computes it again only for nodes that changed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any, overload

import numba
import numpy as np
from numba import types

from gpve.model.errors import InputError
from gpve.scheduler.authoring import compile_part, prepare
from gpve.scheduler.columns import NODE, REQUEST

_ARGUMENTS = (
    types.int64,
    types.int64,
    types.Array(types.int32, 1, "C"),
    numba.from_dtype(NODE),
    numba.from_dtype(REQUEST),
)
SCORE = types.float64(*_ARGUMENTS)
DEVICE = types.int64(*_ARGUMENTS)
KEEP = types.void(*_ARGUMENTS, types.int64)
ALLOWS = types.boolean(*_ARGUMENTS)

Score = Callable[..., float]
Device = Callable[..., int]
Filter = Callable[..., bool]
Keep = Callable[..., None]


def least_left(free_cpu, free_mem, free_gpu, node, req):
    """The device with the least left that still fits, the lowest index on a tie."""
    best = -1
    for d in range(len(free_gpu)):
        left = free_gpu[d]
        if left >= req.gpu_milli and (best < 0 or left < free_gpu[best]):
            best = d
    return best


def _keep_nothing(free_cpu, free_mem, free_gpu, node, req, change):
    pass


@dataclass
class Policy:
    """A named score with its device choice and what it keeps on nodes. Compiled on first use."""

    name: str
    score: Score
    """(free_cpu, free_mem, free_gpu, node, req) -> float; ``-inf`` forbids the node."""
    device: Device = least_left
    """Same arguments -> index of the device that takes a share of a GPU. Whole GPUs: the first free ones."""
    keep: Keep = _keep_nothing
    """Same arguments and ``change``: +1 after a guest came (free already less), -1 after it left, 0 at the
    start; writes to ``node.state``."""
    allows: Filter | None = None
    """Same arguments -> whether the node may be taken at all."""
    uniform: bool = False
    """Ignore the score and draw among all nodes that fit, each with the same chance."""
    doc: str = field(default="")

    @property
    def keeps(self) -> bool:
        """Whether the policy keeps state on nodes."""
        return self.keep is not _keep_nothing

    def on_filter(self, function: Filter) -> Filter:
        """Decorator: nodes for which ``function`` (same arguments) is false are never taken."""
        self.allows = _part(function)
        return function

    def on_device(self, function: Device) -> Device:
        """Decorator: use ``function`` to choose the device of a GPU share."""
        self.device = _part(function)
        return function

    def on_change(self, function: Keep) -> Keep:
        """Decorator: call ``function`` after each change of a node."""
        self.keep = _part(function, "change")
        return function

    @cached_property
    def compiled(self) -> tuple[Any, Any, Any]:
        """Function pointers of score, device and keep. `InputError` with the user's line if one cannot be compiled."""
        score = self.score
        if self.allows is not None:
            compile_part(ALLOWS, self.allows)  # alone first, so that an error names its line
            score = _filtered(self.score, self.allows)
        return (
            compile_part(SCORE, score),
            compile_part(DEVICE, self.device),
            compile_part(KEEP, self.keep),
        )


def _part(function: Callable[..., Any], *extra: str) -> Callable[..., Any]:
    """A user's function made ready for the compiler; ours are."""
    return function if function.__module__.startswith("gpve.") else prepare(function, extra)


def _filtered(score: Score, allows: Filter) -> Score:
    """The score where the filter agrees, else -inf, which forbids the node."""
    inner_score, inner_allows = (
        numba.njit(error_model="numpy")(score),
        numba.njit(error_model="numpy")(allows),
    )

    def filtered(free_cpu, free_mem, free_gpu, node, req):
        if not inner_allows(free_cpu, free_mem, free_gpu, node, req):
            return -np.inf
        return float(inner_score(free_cpu, free_mem, free_gpu, node, req))

    filtered.__module__ = score.__module__
    return filtered


@overload
def policy(name: Score) -> Policy: ...
@overload
def policy(name: str, *, uniform: bool = False) -> Callable[[Score], Policy]: ...
def policy(name: str | Score, *, uniform: bool = False) -> Policy | Callable[[Score], Policy]:
    """Decorator: make a policy of a score function; without a name, the function's own with dashes."""
    if not isinstance(name, str):
        return Policy(name.__name__.replace("_", "-"), _part(name), doc=name.__doc__ or "")

    def make(score: Score) -> Policy:
        return Policy(name, _part(score), uniform=uniform, doc=score.__doc__ or "")

    return make


NAMES = (
    "first-fit",
    "best-fit",
    "worst-fit",
    "least-allocated",
    "dominant-resource",
    "dot-product",
    "fgd",
    "gpu-packing",
    "gpu-clustering",
    "random",
    "fgd23-bestfit",
    "fgd23-dotprod",
)
"""The built-in policies; each stands in its own file of `gpve.scheduler.policies`."""


def load(name: str) -> Policy:
    """The built-in policy of that name.

    Raises `InputError` for an unknown name, with the known ones.
    """
    if name not in NAMES:
        raise InputError(f"unknown policy {name!r}; known: {', '.join(NAMES)}")
    module = import_module("gpve.scheduler.policies." + name.replace("-", "_"))
    found = getattr(module, name.replace("-", "_"))
    assert isinstance(found, Policy)
    return found


def builtin() -> Iterator[Policy]:
    """All built-in policies."""
    return (load(name) for name in NAMES)
