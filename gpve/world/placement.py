"""The scheduler behind the port: decisions of the compiled core over the node rows of a store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpve.model.columns import Nodes
from gpve.model.kinds import KINDS, real, tolerated
from gpve.model.reasons import Reason
from gpve.scheduler.cluster import INDEX_BYTES
from gpve.scheduler.live import Claim, Demand, LiveCluster
from gpve.scheduler.policy import Policy
from gpve.scheduler.requests import ANYWHERE, Terms
from gpve.tasks.advance import Question
from gpve.tasks.events import decode
from gpve.tasks.flow import Place
from gpve.tasks.ledger import Row
from gpve.tasks.records import Decided, NoFit
from gpve.world.placer import NodeRows


@dataclass(frozen=True)
class Explained:
    """What all nodes say of one place that is wanted."""

    counts: dict[str, int]
    """Nodes by what they say."""
    nearest: str | None
    """The node that lacks least, and what; None: some node fits, or there is none."""
    best: tuple[str, ...]
    """Nodes that fit, the best first."""


class SchedulerPlacer:
    """Decides by ``policy``, or by what ``chosen`` says of a place, if it is given.

    Keeps the cluster's columns, once for each policy, and takes over the rows that changed.
    """

    def __init__(self, policy: Policy, seed: int = 0, chosen: Callable[[Place], Policy] | None = None) -> None:
        self._policy, self._seed = policy, seed
        self._chosen = chosen or (lambda place: policy)
        self._policies: dict[str, Policy] = {policy.name: policy}
        self._clusters: dict[str, LiveCluster] = {}
        """By policy."""
        self._names: tuple[str, ...] = ()
        self._at: dict[str, int] = {}
        """Position of a node by its name."""
        self._shapes: dict[str, tuple[Any, ...]] = {}
        """By name: what a node has, which does not change often; if it does, everything is built anew."""
        self._terms: dict[str, Terms] = {}
        """By kind: which taints it tolerates."""
        self._real: dict[str, str] = {}
        """By kind: a node that runs it for real. As long as that one is there, no others are looked for."""
        self._known: list[tuple[int, bool]] = []
        """By position: version and whether it takes guests, as this scheduler believes them to be."""
        self._drawn = 0
        """The position in the random stream, which all policies share."""
        self._began = 0
        self._seen = -1
        """The newest revision that was taken over."""
        self.by: tuple[str, ...] = ()
        """The policies of the last call, by question."""
        self._decided: set[str] = set()
        """Nodes that the last call decided on. Whether their claims were written, the next call sees."""

    def decide(self, questions: Sequence[Question], nodes: NodeRows) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        policies = [self._chosen(question.place) for question in questions]
        self.by = tuple(policy.name for policy in policies)
        self._began = self._drawn
        if not self._look(nodes, policies):
            return [NoFit({}) for _ in questions]
        return [self._answer(policy.name, question.place) for policy, question in zip(policies, questions, strict=True)]

    def explain(self, place: Place, nodes: NodeRows) -> Explained:
        """What the nodes say of a place now; nothing is decided."""
        policy = self._chosen(place)
        if not self._look(nodes, [policy]):
            return Explained({}, None, ())
        told = self._clusters[policy.name].explain(self._demand(place))
        counts = self._counts(told.counts, place)
        miss = told.nearest
        nearest = None
        if miss is not None:
            lacks = {"milli-CPU": miss.cpu_milli, "MiB of memory": miss.memory_mib, "GPUs": miss.gpus}
            short = ", ".join(f"{amount} {what}" for what, amount in lacks.items() if amount)
            # Where the guest may not go, it is of no interest how much is left.
            enough = miss.reason >= Reason.TOO_LARGE and short
            lack = f"{short} short" if enough else self._sentence(miss.reason, place)
            nearest = f"node {self._names[miss.node]} lacks least: {lack}"
        return Explained(counts, nearest, tuple(self._names[n] for n, _ in told.best))

    @property
    def seen(self) -> int:
        """The newest revision of a node that the last call knew of."""
        return self._seen

    @property
    def drawn(self) -> int:
        """The position in the random stream at which the last call began."""
        return self._began

    def draw_from(self, drawn: int) -> None:
        """The next call begins at this position of the random stream: to decide again what was decided."""
        self._drawn = drawn

    def _look(self, nodes: NodeRows, policies: Sequence[Policy]) -> bool:
        """Have the cluster as the store has it now, for these policies; False: there is no node."""
        asked = self._decided | set(self._real.values())
        rows = nodes(self._seen, asked)
        gone = asked - {row["name"] for row in rows}
        self._decided = set()
        new = {policy.name: policy for policy in policies if policy.name not in self._policies}
        other = any(self._shapes.get(row["name"]) != _shape(row) for row in rows)
        if new or other or gone & set(self._real.values()):
            self._policies |= new
            rows = nodes(-1, ())
            self._build(rows)
            gone = set()
        for name in gone & self._at.keys():
            # It was removed: nothing says so but that its row is not there any more.
            for cluster in self._clusters.values():
                cluster.set_open(self._at[name], False)
            self._known[self._at[name]] = (-1, False)
        for row in rows:
            self._seen = max(self._seen, row["revision"])
            n = self._at[row["name"]]
            if self._known[n] != (row["version"], _takes_guests(row)):
                self._take_over(n, row)
        return bool(self._names)

    def _build(self, rows: Sequence[Row]) -> None:
        models = tuple(sorted({row["gpu_model"] for row in rows if row["gpu_model"]}))
        self._names = tuple(row["name"] for row in rows)
        self._at = {name: n for n, name in enumerate(self._names)}
        self._shapes = {row["name"]: _shape(row) for row in rows}
        taints = tuple(frozenset(decode(row["taints"])) for row in rows)
        self._real = {
            kind: name for name, each in zip(self._names, taints, strict=True) for kind in KINDS if real(kind, [each])
        }
        self._terms = {kind: Terms(None, None, tolerated(kind, kind in self._real)) for kind in KINDS} | {"": ANYWHERE}
        nodes = Nodes(
            names=self._names,
            cpu_milli=np.array([row["cpu_milli"] for row in rows], dtype=np.int64),
            memory_mib=np.array([row["memory_mib"] for row in rows], dtype=np.int64),
            gpu_count=np.array([len(decode(row["gpus"])) for row in rows], dtype=np.int32),
            gpu_model=np.array(
                [models.index(row["gpu_model"]) if row["gpu_model"] else -1 for row in rows], dtype=np.int32
            ),
            gpu_model_names=models,
            labels=tuple(decode(row["labels"]) for row in rows),
            taints=taints,
        )
        # Trees for a thousand request classes are plenty; a small cluster should not pay for more.
        room = min(INDEX_BYTES, 8 * 1024 * (len(rows) + 16))
        self._clusters = {
            policy.name: LiveCluster(nodes, policy, seed=self._seed, index_bytes=room)
            for policy in self._policies.values()
        }
        self._known = [(-1, False)] * len(rows)

    def _take_over(self, n: int, row: Row) -> None:
        used = decode(row["used_gpu_milli"])
        gpus = [milli - taken for milli, taken in zip(decode(row["gpus"]), used, strict=True)]
        cpu, memory = row["cpu_milli"] - row["used_cpu_milli"], row["memory_mib"] - row["used_memory_mib"]
        for cluster in self._clusters.values():
            cluster.observe(n, cpu, memory, gpus, _takes_guests(row))
        self._known[n] = (row["version"], _takes_guests(row))

    def _answer(self, policy: str, place: Place) -> Decided | NoFit:
        cluster, demand = self._clusters[policy], self._demand(place)
        shunned = [self._at[name] for name in place.never if name in self._at]
        was_open = {n: self._known[n][1] for n in shunned}
        for n in shunned:
            cluster.set_open(n, False)
        try:
            answer = self._decide(cluster, place, demand, len(shunned))
            if not isinstance(answer, Claim):
                return answer
            version, is_open = self._known[answer.node]
            self._known[answer.node] = (version + 1, is_open)
            self._decided.add(self._names[answer.node])
            for other in self._clusters.values():
                if other is not cluster:
                    _tell(other, cluster, answer.node)
            devices = {str(d): demand.gpu_milli for d in range(answer.devices.bit_length()) if answer.devices >> d & 1}
            return Decided(self._names[answer.node], version, devices)
        finally:
            for n in shunned:
                cluster.set_open(n, was_open[n])

    def _decide(self, cluster: LiveCluster, place: Place, demand: Demand, shunned: int) -> Claim | NoFit:
        """``shunned``: how many nodes are out of the question: nobody needs to be told of those."""
        only = None
        if place.only is not None:
            only = self._at.get(place.only)
            if only is None:
                return NoFit({f"no node {place.only!r}": 1})
        cluster.drawn = self._drawn
        answer = cluster.place(demand, only)
        self._drawn += 1
        if isinstance(answer, Claim):
            return answer
        if only is not None:
            return NoFit({f"{place.only}: {self._sentence(answer, place)}": 1})
        told = dict(cluster.reasons(demand))
        told[Reason.UNSCHEDULABLE] = told.get(Reason.UNSCHEDULABLE, 0) - shunned
        return NoFit(self._counts(told, place))

    def _sentence(self, reason: Reason, place: Place) -> str:
        """What a node says of a place."""
        if reason is not Reason.TAINT or not place.kind:
            return reason.sentence
        return f"the node runs no {place.kind}s" + (", or only simulates them" if place.kind in self._real else "")

    def _counts(self, reasons: Mapping[Reason, int], place: Place) -> dict[str, int]:
        return {self._sentence(reason, place): count for reason, count in reasons.items() if count > 0}

    def _demand(self, place: Place) -> Demand:
        spec = place.spec
        terms = self._terms[place.kind]
        return Demand(spec["cpu_milli"], spec["memory_mib"], spec["gpu_count"], spec["gpu_milli"], terms)


def _tell(other: LiveCluster, cluster: LiveCluster, n: int) -> None:
    """Another policy hears what this one took on a node, which is open: it was chosen."""
    state, devices = cluster.state, int(cluster.nodes.gpu_count[n])
    other.observe(n, int(state.free_cpu[n]), int(state.free_mem[n]), state.free_gpu[n][:devices].tolist(), True)


def _takes_guests(row: Row) -> bool:
    return bool(row["open"] and row["alive"])


def _shape(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("cpu_milli", "memory_mib", "gpus", "gpu_model", "labels", "taints"))
