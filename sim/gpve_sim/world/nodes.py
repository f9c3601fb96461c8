"""Simulated nodes on SimPy's clock: the shared rules of operations over simulated hardware, with faults by plan."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from gpve.tasks.advance import Operation
from gpve.tasks.operations import Make, OpKey, admit, key_of
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown
from gpve_sim.world.faults import Fault, Faults
from gpve_sim.world.hardware import VERBS, Cannot, Hardware

Answer = Callable[[Operation, Outcome], None]


@dataclass
class MemoryJournal:
    """A node's table of operations; it survives the node's crashes."""

    results: dict[OpKey, dict[str, Any]] = field(default_factory=dict)
    tombstones: set[tuple[int, str]] = field(default_factory=set)
    epochs: dict[str, int] = field(default_factory=dict)

    def done(self, key: OpKey) -> dict[str, Any] | None:
        """As in `gpve.tasks.operations.Journal`."""
        return self.results.get(key)

    def record(self, key: OpKey, epoch: int, result: dict[str, Any]) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        self.results[key] = result

    def tombstone(self, task: int, step: str) -> bool:
        """As in `gpve.tasks.operations.Journal`."""
        return (task, step) in self.tombstones

    def bury(self, task: int, step: str, epoch: int) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        self.tombstones.add((task, step))

    def newest(self, resource: str) -> int:
        """As in `gpve.tasks.operations.Journal`."""
        return self.epochs.get(resource, 0)

    def fence(self, resource: str, epoch: int) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        self.epochs[resource] = epoch


@dataclass
class SimNode:
    """One node: what is on it, its journal, and what it is doing."""

    name: str
    hardware: Hardware = field(default_factory=Hardware)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    up: bool = True
    boots: int = 0
    """How often it lost power: what was under way then ends without a word."""
    under_way: dict[OpKey, list[Answer]] = field(default_factory=dict)
    effects: dict[tuple[OpKey, int], int] = field(default_factory=dict)
    """Changes really made, by operation and boot: a loss of power may take back what was made before it."""

    def did(self, key: OpKey) -> bool:
        """Whether the effect of an operation was made, recorded or not."""
        return self.journal.done(key) is not None or any(made == key for made, _ in self.effects)


class SimNodes:
    """All nodes behind the port that an engine uses. ``delay_s``: one way; ``work_s``: what an operation takes."""

    def __init__(
        self,
        env: simpy.Environment,
        names: list[str],
        faults: Faults,
        *,
        delay_s: float = 0.001,
        work_s: float = 0.1,
    ) -> None:
        self.env, self.faults, self.delay_s, self.work_s = env, faults, delay_s, work_s
        self.work_of: Callable[[Operation], float] = lambda operation: self.work_s
        """How long a node works on an operation."""
        self.made: Callable[[Operation], None] | None = None
        """Told of every change that was really made."""
        self._cut_until: dict[str, float] = {}
        self.by_name = {name: SimNode(name) for name in names}

    def holds(self, node: str) -> bool:
        """As in `gpve.world.nodes.Nodes`."""
        return True

    def names(self) -> list[str]:
        """As in `gpve.world.nodes.Nodes`."""
        return list(self.by_name)

    def send(self, operation: Operation, answer: Answer) -> None:
        """As in `gpve.world.nodes.Nodes`."""
        fault = self.faults.at_node(operation)
        self.env.process(self._carry(operation, answer, fault))
        if fault is Fault.REPEAT:
            self.env.process(self._carry(operation, answer, None))
        elif fault is Fault.LATE_DUPLICATE:
            self.env.process(self._carry(operation, answer, None, after=self.faults.late_s))

    def power_loss(self, name: str, for_s: float) -> None:
        """A node loses power and comes back after a while."""
        node = self.by_name[name]
        node.up = False
        node.boots += 1
        node.under_way.clear()
        node.hardware.power_loss()
        self.env.process(self._come_back(node, for_s))

    def cut_off(self, name: str, for_s: float) -> None:
        """Nothing reaches a node, and nothing of it arrives, for a while; it goes on with what it has."""
        self._cut_until[name] = max(self.env.now + for_s, self._cut_until.get(name, 0.0))

    def _is_cut_off(self, name: str) -> bool:
        return self.env.now < self._cut_until.get(name, 0.0)

    def _come_back(self, node: SimNode, after: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(after)
        node.up = True

    def _carry(
        self, operation: Operation, answer: Answer, fault: Fault | None, after: float = 0.0
    ) -> Generator[simpy.Event, Any, None]:
        """A command on its way there, its work, and the answer on its way back."""
        node = self.by_name[operation.node]
        yield self.env.timeout(self.delay_s + after)
        if self._is_cut_off(node.name):
            return
        # A refusal says that nothing was changed, so a node refuses nothing that it did or is about to do.
        begun = node.did(key_of(operation)) or key_of(operation) in node.under_way
        if fault in (Fault.REFUSE, Fault.REFUSE_ONCE) and not begun:
            answer(operation, Refused("refused by plan", again=fault is Fault.REFUSE_ONCE))
            return
        if fault is Fault.LOST:
            return
        if fault is Fault.NODE_DIES_BEFORE:
            self.power_loss(node.name, self.faults.outage_s)
        if fault is Fault.SLOW:
            yield self.env.timeout(operation.attempt_s * 1.5)
        if not node.up:
            return
        verdict = admit(node.journal, operation)
        if isinstance(verdict, Make):
            yield from self._make(node, operation, verdict, answer, fault)
            return
        self._reply(operation, answer, verdict, fault)

    def _make(
        self, node: SimNode, operation: Operation, verdict: Make, answer: Answer, fault: Fault | None
    ) -> Generator[simpy.Event, Any, None]:
        key = key_of(operation)
        if key in node.under_way:
            # Whoever asks again hears of what it asked itself: its epoch may be a newer one.
            node.under_way[key].append(lambda first, outcome: answer(operation, outcome))
            return
        if verdict.cut:
            node.under_way.pop((operation.task, operation.step, "do"), None)
        node.under_way[key] = [answer]
        boots = node.boots
        took = self.work_of(operation)
        if took:
            yield self.env.timeout(took)
        if node.boots != boots or key not in node.under_way:
            return
        outcome: Outcome = Done()
        changed = False
        try:
            changed = VERBS[operation.verb](node.hardware, operation.arguments)
        except Cannot as error:
            outcome = Refused(str(error))
        if changed:
            node.effects[key, boots] = node.effects.get((key, boots), 0) + 1
            if self.made is not None:
                self.made(operation)
        if fault is Fault.NODE_DIES_AFTER_EFFECT:
            self.power_loss(node.name, self.faults.outage_s)
            return
        if isinstance(outcome, Done):
            node.journal.record(key, operation.epoch, outcome.result)
        answers = node.under_way.pop(key)
        if fault is Fault.NODE_DIES_AFTER_RECORD:
            self.power_loss(node.name, self.faults.outage_s)
            return
        for waiting in answers:
            self._reply(operation, waiting, outcome, fault)

    def _reply(self, operation: Operation, answer: Answer, outcome: Outcome, fault: Fault | None) -> None:
        if fault is Fault.ANSWER_LOST:
            return
        if fault is Fault.UNKNOWN:
            outcome = Unknown("unknown by plan")

        def arrive() -> Generator[simpy.Event, Any, None]:
            yield self.env.timeout(self.delay_s)
            if not self._is_cut_off(operation.node):
                answer(operation, outcome)

        self.env.process(arrive())
