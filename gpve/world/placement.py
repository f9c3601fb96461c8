"""The scheduler behind the port: decisions of the compiled core over the node rows of a store."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpve.model.columns import Nodes
from gpve.scheduler.cluster import INDEX_BYTES
from gpve.scheduler.live import Claim, Demand, LiveCluster
from gpve.scheduler.policy import Policy
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
    """Decides by ``policy``. Keeps the cluster's columns, and takes over the rows that changed."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self._policy, self._seed = policy, seed
        self._cluster: LiveCluster | None = None
        self._names: tuple[str, ...] = ()
        self._at: dict[str, int] = {}
        """Position of a node by its name."""
        self._shapes: dict[str, tuple[Any, ...]] = {}
        """By name: what a node has, which does not change often; if it does, everything is built anew."""
        self._known: list[tuple[int, bool]] = []
        """By position: version and whether it is open, as this scheduler believes them to be."""
        self._drawn = 0
        self._draw_from: int | None = None
        self._seen = -1
        """The newest revision that was taken over."""
        self._decided: set[str] = set()
        """Nodes that the last call decided on. Whether their claims were written, the next call sees."""

    def decide(self, questions: Sequence[Question], nodes: NodeRows) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        cluster = self._look(nodes)
        if cluster is None:
            return [NoFit({}) for _ in questions]
        if self._draw_from is not None:
            cluster.drawn, self._draw_from = self._draw_from, None
        self._drawn = cluster.drawn
        return [self._answer(cluster, question.place) for question in questions]

    def explain(self, place: Place, nodes: NodeRows) -> Explained:
        """What the nodes say of a place now; nothing is decided."""
        cluster = self._look(nodes)
        if cluster is None:
            return Explained({}, None, ())
        demand = _demand(place)
        told = cluster.explain(demand)
        counts = {reason.sentence: count for reason, count in told.counts.items() if count}
        miss = told.nearest
        nearest = None
        if miss is not None:
            lacks = {"milli-CPU": miss.cpu_milli, "MiB of memory": miss.memory_mib, "GPUs": miss.gpus}
            short = ", ".join(f"{amount} {what}" for what, amount in lacks.items() if amount)
            lack = f"{short} short" if short else miss.reason.sentence
            nearest = f"node {self._names[miss.node]} lacks least: {lack}"
        return Explained(counts, nearest, tuple(self._names[n] for n, _ in told.best))

    @property
    def seen(self) -> int:
        """The newest revision of a node that the last call knew of."""
        return self._seen

    @property
    def drawn(self) -> int:
        """The position in the random stream at which the last call began."""
        return self._drawn

    def draw_from(self, drawn: int) -> None:
        """The next call begins at this position of the random stream: to decide again what was decided."""
        self._draw_from = drawn

    def _look(self, nodes: NodeRows) -> LiveCluster | None:
        """The cluster as the store has it now; None: there is no node."""
        rows = nodes(self._seen, self._decided)
        gone = self._decided - {row["name"] for row in rows}
        self._decided = set()
        if any(self._shapes.get(row["name"]) != _shape(row) for row in rows):
            rows = nodes(-1, ())
            self._build(rows)
            gone = set()
        cluster = self._cluster
        if cluster is None:
            return None
        for name in gone & self._at.keys():
            # It was removed: nothing says so but that its row is not there any more.
            cluster.set_open(self._at[name], False)
            self._known[self._at[name]] = (-1, False)
        for row in rows:
            self._seen = max(self._seen, row["revision"])
            n = self._at[row["name"]]
            if self._known[n] != (row["version"], row["open"]):
                self._take_over(cluster, n, row)
        return cluster

    def _build(self, rows: Sequence[Row]) -> None:
        models = tuple(sorted({row["gpu_model"] for row in rows if row["gpu_model"]}))
        self._names = tuple(row["name"] for row in rows)
        self._at = {name: n for n, name in enumerate(self._names)}
        self._shapes = {row["name"]: _shape(row) for row in rows}
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
            taints=tuple(frozenset(decode(row["taints"])) for row in rows),
        )
        # Trees for a thousand request classes are plenty; a small cluster should not pay for more.
        room = min(INDEX_BYTES, 8 * 1024 * (len(rows) + 16))
        self._cluster = LiveCluster(nodes, self._policy, seed=self._seed, index_bytes=room)
        self._known = [(-1, False)] * len(rows)

    def _take_over(self, cluster: LiveCluster, n: int, row: Row) -> None:
        used = decode(row["used_gpu_milli"])
        gpus = [milli - taken for milli, taken in zip(decode(row["gpus"]), used, strict=True)]
        cluster.observe(
            n,
            row["cpu_milli"] - row["used_cpu_milli"],
            row["memory_mib"] - row["used_memory_mib"],
            gpus,
            row["open"] and row["alive"],
        )
        self._known[n] = (row["version"], row["open"])

    def _answer(self, cluster: LiveCluster, place: Place) -> Decided | NoFit:
        demand = _demand(place)
        shunned = [self._at[name] for name in place.never if name in self._at]
        was_open = {n: self._known[n][1] for n in shunned}
        for n in shunned:
            cluster.set_open(n, False)
        try:
            answer = self._decide(cluster, place, demand)
            if isinstance(answer, Claim):
                version, is_open = self._known[answer.node]
                self._known[answer.node] = (version + 1, is_open)
                self._decided.add(self._names[answer.node])
                devices = {
                    str(d): demand.gpu_milli for d in range(answer.devices.bit_length()) if answer.devices >> d & 1
                }
                return Decided(self._names[answer.node], version, devices)
            return answer
        finally:
            for n in shunned:
                cluster.set_open(n, was_open[n])

    def _decide(self, cluster: LiveCluster, place: Place, demand: Demand) -> Claim | NoFit:
        only = None
        if place.only is not None:
            only = self._at.get(place.only)
            if only is None:
                return NoFit({f"no node {place.only!r}": 1})
        answer = cluster.place(demand, only)
        if isinstance(answer, Claim):
            return answer
        if only is not None:
            return NoFit({f"{place.only}: {answer.sentence}": 1})
        return NoFit({reason.sentence: count for reason, count in cluster.reasons(demand).items() if count})


def _shape(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("cpu_milli", "memory_mib", "gpus", "gpu_model", "labels", "taints"))


def _demand(place: Place) -> Demand:
    spec = place.spec
    return Demand(spec["cpu_milli"], spec["memory_mib"], spec["gpu_count"], spec["gpu_milli"])
