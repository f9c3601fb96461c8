"""Simulated nodes on SimPy's clock: the shared rules of operations over simulated hardware, with faults by plan."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import simpy

from gpve.tasks.advance import Operation
from gpve.tasks.operations import Make, OpKey, admit, forget, key_of
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown
from gpve.world.hardware import Cannot, Hardware
from gpve.world.verbs import RESULTS, VERBS
from gpve_sim.world.faults import Fault, Faults
from gpve_sim.world.later import Later

NEVER = float("inf")
Answer = Callable[[Operation, Outcome], None]


@dataclass
class MemoryJournal:
    """A node's table of operations; it survives the node's crashes."""

    results: dict[int, dict[OpKey, dict[str, Any]]] = field(default_factory=dict)
    """By task and operation."""
    resources: dict[int, dict[str, None]] = field(default_factory=dict)
    """By task: what its operations were about."""
    tombstones: set[tuple[int, str]] = field(default_factory=set)
    epochs: dict[str, int] = field(default_factory=dict)

    def done(self, key: OpKey) -> dict[str, Any] | None:
        """As in `gpve.tasks.operations.Journal`."""
        of_task = self.results.get(key[0])
        return None if of_task is None else of_task.get(key)

    def record(self, operation: Operation, result: dict[str, Any]) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        self.results.setdefault(operation.task, {})[key_of(operation)] = result
        self.resources.setdefault(operation.task, {})[operation.resource] = None

    def drop(self, task: int) -> list[str]:
        """As in `gpve.tasks.operations.Journal`."""
        for _, step, _ in self.results.pop(task, ()):
            self.tombstones.discard((task, step))
        return list(self.resources.pop(task, ()))

    def tombstone(self, task: int, step: str) -> bool:
        """As in `gpve.tasks.operations.Journal`."""
        return (task, step) in self.tombstones

    def bury(self, operation: Operation) -> None:
        """As in `gpve.tasks.operations.Journal`."""
        self.tombstones.add((operation.task, operation.step))

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
    lease_until: float = NEVER
    """Until when it may run ``ha`` guests."""
    under_way: dict[OpKey, list[Answer]] = field(default_factory=dict)
    effects: dict[OpKey, list[int]] = field(default_factory=dict)
    """The boots in which an operation really changed something: a loss of power may take back what was made before."""

    def did(self, key: OpKey) -> bool:
        """Whether the effect of an operation was made, recorded or not."""
        return self.journal.done(key) is not None or key in self.effects

    def made_twice(self) -> Iterator[tuple[OpKey, int]]:
        """Operations that had their effect more than once in one boot, and how often."""
        for key, boots in self.effects.items():
            most = max(boots.count(boot) for boot in boots)
            if most > 1:
                yield key, most


class SimNodes:
    """All nodes behind the port that an engine uses. ``delay_s``: one way; ``work_s``: what an operation takes.

    ``leases``: nodes end their ``ha`` guests when their lease runs out; it has to be granted again and again.
    """

    def __init__(
        self,
        env: simpy.Environment,
        names: list[str],
        faults: Faults,
        *,
        delay_s: float = 0.001,
        work_s: float = 0.1,
        leases: bool = False,
    ) -> None:
        self.env, self.faults, self.delay_s, self.work_s = env, faults, delay_s, work_s
        self.work_of: Callable[[Operation], float] = lambda operation: self.work_s
        """How long a node works on an operation."""
        self.made: Callable[[Operation], None] | None = None
        """Told of every change that was really made."""
        self._cut_until: dict[str, float] = {}
        self._worked_on: dict[int, set[str]] = {}
        """By task: the nodes that got commands of it."""
        self.restarted: Callable[[str, int], None] | None = None
        """Told of (node, guest) that runs again because the node has its lease again."""
        self.leases = leases
        self.still = False
        """No lease runs out any more."""
        self.by_name = {name: SimNode(name, lease_until=0.0 if leases else NEVER) for name in names}

    def holds(self, node: str) -> bool:
        """As in `gpve.world.nodes.Nodes`."""
        return True

    def names(self) -> list[str]:
        """As in `gpve.world.nodes.Nodes`."""
        return list(self.by_name)

    def send(self, operation: Operation, answer: Answer) -> None:
        """As in `gpve.world.nodes.Nodes`."""
        fault = self.faults.at_node(operation)
        self._worked_on.setdefault(operation.task, set()).add(operation.node)
        Later(self.env, self.delay_s, self._arrive, operation, answer, fault)
        if fault is Fault.REPEAT:
            Later(self.env, self.delay_s, self._arrive, operation, answer, None)
        elif fault is Fault.LATE_DUPLICATE:
            Later(self.env, self.delay_s + self.faults.late_s, self._arrive, operation, answer, None)

    def forget(self, task: int, epoch: int) -> None:
        """A task is over, and had this epoch last: its nodes forget it."""
        for name in sorted(self._worked_on.pop(task, ())):
            forget(self.by_name[name].journal, task, epoch)

    def forget_effects(self, task: int) -> None:
        """Nobody will ask what a task has changed."""
        for name in self._worked_on.get(task, ()):
            effects = self.by_name[name].effects
            for key in self.by_name[name].journal.results.get(task, ()):
                effects.pop(key, None)

    def power_loss(self, name: str, for_s: float) -> None:
        """A node loses power and comes back after a while."""
        node = self.by_name[name]
        node.up = False
        node.boots += 1
        node.under_way.clear()
        node.hardware.power_loss()
        if self.leases:
            node.lease_until = self.env.now
        Later(self.env, for_s, self._come_back, node)

    def cut_off(self, name: str, for_s: float) -> None:
        """Nothing reaches a node, and nothing of it arrives, for a while; it goes on with what it has."""
        self._cut_until[name] = max(self.env.now + for_s, self._cut_until.get(name, 0.0))

    def grant(self, name: str, until: float) -> None:
        """A beat was acknowledged: the node has its lease until then."""
        node = self.by_name[name]
        if until <= self.env.now:
            return
        node.lease_until = max(node.lease_until, until)
        for guest in node.hardware.restart_ha():
            if self.restarted is not None:
                self.restarted(name, guest)
        Later(self.env, until - self.env.now, self._expire, node)

    def _expire(self, node: SimNode) -> None:
        # A moment early or late by rounding: the timer of a newer lease comes later.
        if not self.still and self.env.now >= node.lease_until - 1e-9:
            node.hardware.end_ha()

    def at_once(self, operation: Operation) -> int:
        """How many operations of the same step and direction its node is at work on, this one too."""
        under_way = self.by_name[operation.node].under_way
        return sum(key[1:] == (operation.step, operation.direction) for key in under_way)

    def reachable(self, name: str) -> bool:
        """Whether the node has power and its cable."""
        return self.by_name[name].up and not self._is_cut_off(name)

    def _is_cut_off(self, name: str) -> bool:
        return name in self._cut_until and self.env.now < self._cut_until[name]

    def _unleased(self, node: SimNode, operation: Operation) -> bool:
        """Whether the guest of an operation needs a lease that is not there."""
        if self.env.now < node.lease_until:
            return False
        guest = operation.arguments.get("guest")
        needs = guest in node.hardware.ha or operation.arguments.get("spec", {}).get("ha", False)
        return bool(needs)

    def _come_back(self, node: SimNode) -> None:
        node.up = True

    def _arrive(self, operation: Operation, answer: Answer, fault: Fault | None) -> None:
        """A command comes to its node."""
        node = self.by_name[operation.node]
        if self._is_cut_off(node.name):
            return
        if fault is not None:
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
                Later(self.env, operation.attempt_s * 1.5, self._admit, node, operation, answer, fault)
                return
        self._admit(node, operation, answer, fault)

    def _admit(self, node: SimNode, operation: Operation, answer: Answer, fault: Fault | None) -> None:
        if not node.up:
            return
        verdict = admit(node.journal, operation)
        if not isinstance(verdict, Make):
            self._reply(operation, answer, verdict, fault)
            return
        key = key_of(operation)
        if key in node.under_way:
            # Whoever asks again hears of what it asked itself: its epoch may be a newer one.
            node.under_way[key].append(lambda first, outcome: answer(operation, outcome))
            return
        if verdict.cut:
            node.under_way.pop((operation.task, operation.step, "do"), None)
        node.under_way[key] = [answer]
        took = self.work_of(operation)
        if took:
            Later(self.env, took, self._make, node, operation, node.boots, fault)
        else:
            self._make(node, operation, node.boots, fault)

    def _make(self, node: SimNode, operation: Operation, boots: int, fault: Fault | None) -> None:
        """The work is over: make the effect, record it, answer."""
        key = key_of(operation)
        if node.boots != boots or key not in node.under_way:
            return
        outcome: Outcome = Done()
        changed = False
        unleased = self._unleased(node, operation)
        if unleased:
            # The verb means what ran before the node ended it; what would run now runs when there is a lease again.
            node.hardware.restart_ha(operation.arguments["guest"])
        try:
            changed = VERBS[operation.verb](node.hardware, operation.arguments)
            outcome = Done(RESULTS[operation.verb](node.hardware, operation.arguments))
        except Cannot as error:
            outcome = Refused(str(error))
        if unleased:
            node.hardware.end_ha()
        if changed:
            node.effects.setdefault(key, []).append(boots)
            if self.made is not None:
                self.made(operation)
        if fault is Fault.NODE_DIES_AFTER_EFFECT:
            self.power_loss(node.name, self.faults.outage_s)
            return
        if isinstance(outcome, Done):
            node.journal.record(operation, outcome.result)
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
        Later(self.env, self.delay_s, self._hear, operation, answer, outcome)

    def _hear(self, operation: Operation, answer: Answer, outcome: Outcome) -> None:
        if not self._is_cut_off(operation.node):
            answer(operation, outcome)
