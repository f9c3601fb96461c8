"""Decisions one by one: the same core, without a trace that is known beforehand. What a server uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from gpve.model.columns import Guests, Nodes
from gpve.model.errors import InputError
from gpve.model.reasons import Reason
from gpve.scheduler.cluster import INDEX_BYTES, eligibility, state_of
from gpve.scheduler.columns import BAD_DEVICE, ERROR, ERROR_NODE, FLOOR, REQUEST_CLASS, State
from gpve.scheduler.compiled import bound, entry
from gpve.scheduler.explain import Explanation, explain
from gpve.scheduler.fragmentation import Typical, typical_requests
from gpve.scheduler.index import evaluate, reason_of
from gpve.scheduler.place import begin, claim, draw_of, find, release, set_open, take_up
from gpve.scheduler.policy import Policy
from gpve.scheduler.requests import ANYWHERE, Terms, requests_of


@entry
def _begin(state, policy):
    begin(state, policy[2], policy[4])


@entry
def _decide(state, policy, c, guest):
    """(node, devices as bits), or (minus the reason, 0)."""
    score, device, keep, uniform, keeps, seed = policy
    draw = draw_of(seed, guest)
    n = find(state, score, uniform, c, -1, draw, False)
    if n < 0:
        return n, np.int64(0)
    return n, claim(state, device, keep, keeps, c, -1, n, draw, 0)


@entry
def _decide_on(state, policy, c, n, guest):
    """As `_decide`, of node ``n`` alone."""
    score, device, keep, uniform, keeps, seed = policy
    draw = draw_of(seed, guest)
    take_up(state, c, draw)
    leaf = evaluate(state, score, uniform, c, n)
    if leaf <= FLOOR:
        return -reason_of(leaf), np.int64(0)
    return n, claim(state, device, keep, keeps, c, -1, n, draw, 0)


@entry
def _observe(state, n, free_cpu, free_mem, free_gpu, is_open):
    state.free_cpu[n] = free_cpu
    state.free_mem[n] = free_mem
    for d in range(len(free_gpu)):
        state.free_gpu[n][d] = free_gpu[d]
    set_open(state, n, is_open)


@entry
def _release(state, policy, c, n, devices):
    release(state, policy[2], policy[4], c, -1, n, devices)


@entry
def _set_open(state, n, is_open):
    set_open(state, n, is_open)


_NONE = np.zeros(0, dtype=np.int64)
NOBODY = Guests(cast(Any, ()), _NONE.astype(np.uint8), _NONE.astype(float), _NONE.astype(float), _NONE, _NONE)
"""No guests, and none of what the lab needs for their names."""


@dataclass(frozen=True)
class Demand:
    """What one guest asks for."""

    cpu_milli: int
    memory_mib: int
    gpu_count: int = 0
    gpu_milli: int = 0
    terms: Terms = ANYWHERE


@dataclass(frozen=True)
class Claim:
    """A place taken: give it back with `LiveCluster.release`."""

    demand: Demand
    node: int
    devices: int
    """Bits of the devices taken."""


class LiveCluster:
    """A cluster that is asked guest by guest.

    Group rules are not part of it yet: they come with the server, whose store knows the groups.
    """

    def __init__(
        self,
        nodes: Nodes,
        policy: Policy,
        *,
        typical: Typical | None = None,
        seed: int = 0,
        index_bytes: int = INDEX_BYTES,
    ) -> None:
        none = NOBODY
        self.nodes = nodes
        self.policy = policy
        typical = typical_requests(none, nodes.gpu_model_names) if typical is None else typical
        self._state = state_of(nodes, requests_of(none), typical, index_bytes)
        self._arguments = (*policy.compiled, policy.uniform, policy.keeps, seed)
        self._classes: dict[Demand, int] = {}
        self._terms: dict[Terms, int] = {}
        self.drawn = 0
        """How many places were asked for: the position in the random stream of policies that draw."""
        _begin(self._state, self._arguments)
        self._decide = bound(_decide, self._state, self._arguments, 0, 0)
        self._release = bound(_release, self._state, self._arguments, 0, 0, 0)

    @property
    def state(self) -> State:
        """The columns, to look at."""
        return self._state

    def place(self, demand: Demand, only: int | None = None) -> Claim | Reason:
        """Decide (on node ``only``, if given) and claim; the `Reason` of the nearest miss if no node fits.

        Raises `InputError` if the policy returns something that is not a score, or a device that cannot take the share;
        then nothing is claimed.
        """
        c = self._class_of(demand)
        if only is None:
            node, devices = self._decide(self._state, self._arguments, c, self.drawn)
        else:
            node, devices = _decide_on(self._state, self._arguments, c, only, self.drawn)
        self.drawn += 1
        wrong = int(self._state.scalars[ERROR])
        if wrong:
            bad = self.nodes.names[int(self._state.scalars[ERROR_NODE])]
            self._state.scalars[ERROR] = 0
            if node >= 0:
                self.release(Claim(demand, node, devices))
            what = "chose a device that cannot take the share" if wrong == BAD_DEVICE else "gave no score"
            raise InputError(f"policy {self.policy.name!r} {what} on node {bad!r}")
        return Claim(demand, node, devices) if node >= 0 else Reason(-node)

    def release(self, claim: Claim) -> None:
        """Give back what `place` claimed."""
        self._release(self._state, self._arguments, self._classes[claim.demand], claim.node, claim.devices)

    def observe(self, node: int, free_cpu: int, free_mem: int, free_gpu: Sequence[int], is_open: bool) -> None:
        """Take over what is free on a node by somebody else's account: milli-CPU, MiB, and gpu_milli of each device."""
        gpus = self._state.free_gpu[node].copy()
        gpus[: len(free_gpu)] = free_gpu
        _observe(self._state, node, free_cpu, free_mem, gpus, int(is_open))

    def reasons(self, demand: Demand) -> dict[Reason, int]:
        """How many nodes say what to a demand now."""
        return self.explain(demand).counts

    def explain(self, demand: Demand) -> Explanation:
        """What every node says to a demand now, the nearest miss, and the best nodes."""
        c = self._class_of(demand)  # may give the state other columns
        return explain(self._state, self.policy, c, -1)

    def set_open(self, node: int, is_open: bool) -> None:
        """Let the node take guests, or not; those on it stay."""
        _set_open(self._state, node, int(is_open))

    def _class_of(self, demand: Demand) -> int:
        c = self._classes.get(demand)
        return self._new_class(demand) if c is None else c

    def _new_class(self, demand: Demand) -> int:
        """Number a demand that was never asked for; columns grow by doubling."""
        state = self._state
        c = len(self._classes)
        if c >= len(state.classes):
            wider = np.zeros(max(16, 2 * len(state.classes)), dtype=REQUEST_CLASS)
            wider[: len(state.classes)] = state.classes
            wider["slot"][len(state.classes) :] = -1
            state = state._replace(classes=wider)
        constraint = self._terms.get(demand.terms)
        if constraint is None:
            constraint = self._terms[demand.terms] = len(self._terms)
            state = state._replace(eligible=eligibility(self.nodes, tuple(self._terms))[1])
        record = state.classes[c]
        record["cpu"], record["mem"] = demand.cpu_milli, demand.memory_mib
        record["gpu_count"], record["gpu_milli"] = demand.gpu_count, demand.gpu_milli
        record["constraint"], record["ruled_out"] = constraint, -1
        self._classes[demand] = c
        self._state = state
        return c
