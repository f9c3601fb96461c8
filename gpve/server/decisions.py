"""Every call of the scheduler is written down: what it saw, what it was asked, what it answered.

So that a dump of the cluster can be decided again, and be compared, though several servers decided side by side.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from gpve.engine.engine import Engine
from gpve.server.metrics import METRICS
from gpve.tasks.advance import Question
from gpve.tasks.events import encode
from gpve.tasks.ledger import Work
from gpve.tasks.records import Decided, NoFit
from gpve.world.placement import SchedulerPlacer
from gpve.world.placer import NodeRows

KEPT = ("cpu_milli", "memory_mib", "gpu_count", "gpu_milli", "priority")
"""What of a guest's spec a decision depends on."""


class Recording:
    """A placer (`gpve.world.placer.Placer`) whose calls are kept, if they took a place."""

    def __init__(self, placer: SchedulerPlacer, server: str, policy: str) -> None:
        self._placer, self._policy = placer, policy
        self._me = f"{server}/{uuid.uuid4().hex[:12]}"
        self._number = 0
        self.engine: Engine | None = None

    def decide(self, questions: Sequence[Question], nodes: NodeRows) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        began = time.perf_counter()
        answers = self._placer.decide(questions, nodes)
        METRICS.decide_s.observe(time.perf_counter() - began)
        for policy, answer in zip(self._placer.by, answers, strict=True):
            METRICS.decided.labels(policy, "placed" if isinstance(answer, Decided) else "nowhere").inc()
        if self.engine is not None and any(isinstance(answer, Decided) for answer in answers):
            self._number += 1
            row = {
                "engine": self._me,
                "number": self._number,
                "policy": self._policy,
                "drawn": self._placer.drawn,
                "seen": self._placer.seen,
                "answers": encode([_told(*each) for each in zip(questions, answers, self._placer.by, strict=True)]),
            }
            self.engine.transact(Work(lambda tx: tx.put("decision", row)))
        return answers


def _told(question: Question, answer: Decided | NoFit, policy: str) -> dict[str, Any]:
    place = question.place
    asked = {
        "task": question.task,
        "step": question.step,
        "guest": place.guest,
        "kind": place.kind,
        "project": place.project,
        "policy": policy,
        "role": place.role,
        "only": place.only,
        "never": list(place.never),
        "spec": {name: place.spec.get(name, 0) for name in KEPT},
    }
    if isinstance(answer, NoFit):
        return asked | {"reasons": dict(answer.reasons)}
    return asked | {"node": answer.node, "version": answer.version, "devices": dict(answer.devices)}
