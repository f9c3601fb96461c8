"""The scheduler behind the port: decisions of the compiled core over the node rows of a store."""

import json
from collections.abc import Sequence

import numpy as np

from gpve.model.columns import Nodes
from gpve.scheduler.cluster import INDEX_BYTES
from gpve.scheduler.live import Claim, Demand, LiveCluster
from gpve.scheduler.policy import Policy
from gpve.tasks.advance import Question
from gpve.tasks.flow import Place
from gpve.tasks.ledger import Row
from gpve.tasks.records import Decided, NoFit


class SchedulerPlacer:
    """Decides by ``policy``. Keeps the cluster's columns, and takes over the rows whose version it does not know."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self._policy, self._seed = policy, seed
        self._cluster: LiveCluster | None = None
        self._names: tuple[str, ...] = ()
        self._known: list[tuple[int, bool]] = []

    def decide(self, questions: Sequence[Question], nodes: Sequence[Row]) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        if self._cluster is None or tuple(row["name"] for row in nodes) != self._names:
            self._build(nodes)
        assert self._cluster is not None
        for n, row in enumerate(nodes):
            if self._known[n] != (row["version"], row["open"]):
                self._take_over(self._cluster, n, row)
        return [self._answer(self._cluster, question.place) for question in questions]

    def _build(self, rows: Sequence[Row]) -> None:
        models = tuple(sorted({row["gpu_model"] for row in rows if row["gpu_model"]}))
        self._names = tuple(row["name"] for row in rows)
        nodes = Nodes(
            names=self._names,
            cpu_milli=np.array([row["cpu_milli"] for row in rows], dtype=np.int64),
            memory_mib=np.array([row["memory_mib"] for row in rows], dtype=np.int64),
            gpu_count=np.array([len(json.loads(row["gpus"])) for row in rows], dtype=np.int32),
            gpu_model=np.array(
                [models.index(row["gpu_model"]) if row["gpu_model"] else -1 for row in rows], dtype=np.int32
            ),
            gpu_model_names=models,
            labels=tuple(json.loads(row["labels"]) for row in rows),
            taints=tuple(frozenset(json.loads(row["taints"])) for row in rows),
        )
        # Trees for a thousand request classes are plenty; a small cluster should not pay for more.
        room = min(INDEX_BYTES, 8 * 1024 * (len(rows) + 16))
        self._cluster = LiveCluster(nodes, self._policy, seed=self._seed, index_bytes=room)
        self._known = [(-1, False)] * len(rows)

    def _take_over(self, cluster: LiveCluster, n: int, row: Row) -> None:
        used = json.loads(row["used_gpu_milli"])
        gpus = [milli - taken for milli, taken in zip(json.loads(row["gpus"]), used, strict=True)]
        cluster.observe(
            n,
            row["cpu_milli"] - row["used_cpu_milli"],
            row["memory_mib"] - row["used_memory_mib"],
            gpus,
            row["open"] and row["alive"],
        )
        self._known[n] = (row["version"], row["open"])

    def _answer(self, cluster: LiveCluster, place: Place) -> Decided | NoFit:
        spec = place.spec
        demand = Demand(spec["cpu_milli"], spec["memory_mib"], spec["gpu_count"], spec["gpu_milli"])
        shunned = [self._names.index(name) for name in place.never if name in self._names]
        was_open = {n: self._known[n][1] for n in shunned}
        for n in shunned:
            cluster.set_open(n, False)
        try:
            answer = self._decide(cluster, place, demand)
            if isinstance(answer, Claim):
                version, is_open = self._known[answer.node]
                self._known[answer.node] = (version + 1, is_open)
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
            if place.only not in self._names:
                return NoFit({f"no node {place.only!r}": 1})
            only = self._names.index(place.only)
        answer = cluster.place(demand, only)
        if isinstance(answer, Claim):
            return answer
        if only is not None:
            return NoFit({f"{place.only}: {answer.sentence}": 1})
        return NoFit({reason.sentence: count for reason, count in cluster.reasons(demand).items() if count})
