"""Engines and their world on SimPy's clock: the turn of production over a store in memory and simulated nodes."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import simpy

from gpve.tasks.advance import Operation, Question
from gpve.tasks.audit import audit
from gpve.tasks.events import Kind
from gpve.tasks.flow import Flows
from gpve.tasks.ha import renew
from gpve.tasks.ledger import Key, Row, Tx, Work
from gpve.tasks.outcome import Outcome
from gpve.tasks.records import Decided, NoFit
from gpve.tasks.state import Status
from gpve.tasks.submit import Request, cancel
from gpve.tasks.worker import Rules, Worker
from gpve.world.placer import NodeRows, Placer
from gpve.world.store import StoreDown
from gpve.world.turn import turn
from gpve_sim.world.faults import AT_ENGINE, Fault, Faults
from gpve_sim.world.later import Later
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.store import MemoryStore, MemoryTx

OUTCOMES = {Kind.DONE: "do", Kind.REFUSED: "do", Kind.UNKNOWN: "do", Kind.UNDONE: "undo", Kind.UNDO_AGAIN: "undo"}


NEVER = float("inf")
QUICK = Rules(lease_s=20.0, sweep_s=10.0)
"""Rules under which a take-over does not take long."""


class Crash(Exception):
    """The engine's process ends here."""


@dataclass
class World:
    """A cluster: store, nodes, engines; ``engines`` of them run at once."""

    env: simpy.Environment
    store: MemoryStore
    nodes: SimNodes
    placer: Callable[[], Placer]
    flows: Flows
    faults: Faults = field(default_factory=Faults)
    rules: Rules = QUICK
    restart_s: float = 3.0
    """How long an engine that crashed is away."""
    engines: "list[SimEngine]" = field(default_factory=list)
    store_back_at: float = 0.0
    """Before this time the store does not answer."""
    incarnations: int = 0
    over: "Callable[[int, Status], None] | None" = None
    """Told of tasks that came to an end."""
    audited: bool = False
    """Audit the store after every transaction; what is found goes to ``findings``."""
    findings: list[str] = field(default_factory=list)
    think_s: float = 0.0
    """From an engine's decision on a place to its claim; meanwhile others decide and claim."""
    stopped: bool = False
    """As `stop` left it."""

    def beat(self) -> None:
        """Let the nodes join, and beat, a third of a lease apart, each to the engines that it talks to, in turn."""
        every_s = self.rules.node_lease_s / 3.0
        for at, name in enumerate(self.nodes.names()):
            self.store.transact([Work(partial(renew, node=name, boot="0", engine="nobody yet"))])
            self.nodes.grant(name, self.rules.node_lease_s)
            Later(self.env, every_s * at / len(self.nodes.names()), self._beat, name, at)

    def _beat(self, name: str, turn: int) -> None:
        if self.stopped:
            return
        Later(self.env, self.rules.node_lease_s / 3.0, self._beat, name, turn + 1)
        node, sent = self.nodes.by_name[name], self.env.now
        engines = [engine for engine in self.engines if engine.reaches(name)]
        if not self.nodes.reachable(name) or not engines:
            return
        boot = node.boots

        def acknowledge(granted: bool) -> None:
            if granted:
                Later(self.env, self.nodes.delay_s, grant)

        def grant() -> None:
            if node.boots == boot and self.nodes.reachable(name):
                self.nodes.grant(name, sent + self.rules.node_lease_s)

        engine = engines[turn % len(engines)]
        Later(self.env, self.nodes.delay_s, engine.hear, name, str(boot), acknowledge)

    def start(self, engines: int = 2) -> None:
        """Start the engines."""
        for number in range(engines):
            self.engines.append(SimEngine(self, f"engine-{number}"))

    def stop(self) -> None:
        """End the engines; what is on its way to a node still arrives, and what runs goes on running."""
        self.stopped = self.nodes.still = True

    def submit(self, wish: Request, engine: int = 0) -> list[Any]:
        """Submit through an engine; the list gets the task's row, or the error, when it is known."""
        answer: list[Any] = []
        self.engines[engine].submit(wish, answer.append)
        return answer

    def incarnation(self, name: str) -> str:
        """A name that no process had before."""
        self.incarnations += 1
        return f"{name}/{self.incarnations}"


class SimEngine:
    """One engine: its process, its crashes and its pauses."""

    def __init__(self, world: World, name: str, held: "frozenset[str] | None" = None) -> None:
        self.world, self.name, self.env = world, name, world.env
        self.held = held
        """The nodes that it talks to; None: all."""
        self._placer = world.placer()
        self._frozen_until = 0.0
        self._away_until = 0.0
        self._mail: list[tuple[Operation, Outcome]] = []
        self._beats: list[tuple[str, str, Callable[[bool], None]]] = []
        self._parted_until: dict[str, float] = {}
        self._held_up = False
        self._turn_at = NEVER
        self._turns = 0
        """How often the time of the next turn was set anew: only the newest alarm counts."""
        self._begin()
        self._due(self.env.now)

    def _begin(self) -> None:
        self.worker = Worker(
            self.name, self.world.incarnation(self.name), self.world.flows, self.world.rules, self.holds
        )
        self._mail.clear()
        self._beats.clear()
        self._crashed = self._dead = self._thinks = False

    def submit(self, wish: Request, then: Callable[[Any], None]) -> None:
        """As `Worker.submit`."""
        self.worker.submit(wish, then)
        self._ring()

    def reaches(self, node: str) -> bool:
        """Whether this engine and a node talk to each other now."""
        return self.holds(node) and not (self._crashed or self._dead) and not self._parted(node)

    def part(self, node: str, for_s: float) -> None:
        """Nothing passes between this engine and a node for a while; each of them talks to the others."""
        self._parted_until[node] = max(self.env.now + for_s, self._parted_until.get(node, 0.0))

    def _parted(self, node: str) -> bool:
        return node in self._parted_until and self.env.now < self._parted_until[node]

    def hear(self, node: str, boot: str, then: Callable[[bool], None]) -> None:
        """A node's beat arrives; as `Worker.hear`."""
        if not (self._crashed or self._dead or self._parted(node)):
            self._beats.append((node, boot, then))
            self._ring()

    def see_to(self, run: Callable[[Tx], Any]) -> None:
        """As `Worker.see_to`."""
        self.worker.see_to(run)
        self._ring()

    def look(self) -> None:
        """Look for work that nobody told of."""
        self.worker.wants_work = True
        self._ring()

    def capacity(self) -> None:
        """As `Worker.capacity`."""
        self.worker.capacity()
        self._ring()

    def cancel(self, task: int, reason: str) -> None:
        """Ask for the end of a task that this engine drives, and have it answered at once."""

        def then(answer: Any) -> None:
            if isinstance(answer, Exception):
                raise answer
            self.worker.cancelled([task])

        self.worker.do(Work(partial(cancel, task=task, reason=reason)), then)
        self._ring()

    def crash(self) -> None:
        """The process ends, and is started anew after a while."""
        self._crashed = True
        self._ring()

    def pause(self, for_s: float) -> None:
        """The process stands still."""
        self._frozen_until = max(self._frozen_until, self.env.now + for_s)

    def _ring(self) -> None:
        self._due(self.env.now)

    def _due(self, at: float) -> None:
        """See to it that a turn comes at ``at`` at the latest."""
        if at < self._turn_at:
            self._turn_at = at
            self._turns += 1
            Later(self.env, max(0.0, at - self.env.now), self._awake, self._turns)

    def _awake(self, turn: int) -> None:
        if turn != self._turns:
            return
        self._turn_at = NEVER
        back_at = max(self._frozen_until, self._away_until)
        if self.env.now < back_at:
            self._held_up = True
            self._due(back_at)
            return
        # Whoever stood still when the world ended still does what it was about to: that is what fencing is for.
        if self.world.stopped and not self._held_up:
            return
        self._held_up = False
        if self._dead:
            self._begin()
        while True:
            try:
                self._turn()
            except StoreDown:
                self.worker.reborn(self.world.incarnation(self.name))
                self._be_away(1.0)
                return
            except Crash:
                self._dead = True
                self._be_away(self.world.restart_s)
                return
            if self._thinks:
                self._thinks = False
                self._due(self.env.now + self.world.think_s)
                return
            if not (self._mail or self._beats) and self.worker.nothing():
                self._due(self.worker.wake())
                return

    def _turn(self) -> None:
        if self._crashed:
            raise Crash
        mail, self._mail = self._mail, []
        for operation, outcome in mail:
            self.worker.answer(operation, outcome)
        beats, self._beats = self._beats, []
        for beat in beats:
            self.worker.hear(*beat)
        turn(self.worker, self, self, self, self.env.now)
        self._tell()
        if self._crashed:
            raise Crash

    def _be_away(self, for_s: float) -> None:
        self._away_until = self.env.now + for_s
        self._due(self._away_until)

    def _tell(self) -> None:
        over, self.worker.over = self.worker.over, []
        if self.world.over is not None:
            for task, status in over:
                self.world.over(task, status)

    # The nodes, as this engine sees them.

    def holds(self, node: str) -> bool:
        """As in `gpve.world.nodes.Nodes`."""
        return self.held is None or node in self.held

    def names(self) -> list[str]:
        """As in `gpve.world.nodes.Nodes`."""
        return [name for name in self.world.nodes.names() if self.holds(name)]

    def send(self, operation: Operation, answer: Callable[[Operation, Outcome], None]) -> None:
        """As in `gpve.world.nodes.Nodes`; answers wait in the mail while the engine stands still."""
        if self._crashed or self._fires(operation, AT_SENDING):
            self._crashed = True
            return
        if self._parted(operation.node):
            return
        worker = self.worker

        def arrive(operation: Operation, outcome: Outcome) -> None:
            if worker is not self.worker or self._parted(operation.node):
                return
            fault = self._fires(operation, AT_ANSWER)
            if fault is Fault.CRASH_BEFORE_RECORD:
                self._crashed = True
            elif fault is Fault.LEASE_STOLEN:
                self._frozen_until = self.env.now + 3.0 * self.world.rules.lease_s
            elif fault is Fault.CANCEL:
                self.world.store.transact([Work(lambda tx: cancel(tx, operation.task, "by plan"))])
            self._mail.append((operation, outcome))
            self._ring()

        self.world.nodes.send(operation, arrive)

    def _fires(self, operation: Operation, among: tuple[Fault, ...]) -> Fault | None:
        return self.world.faults.fire(operation.step, operation.direction, among)

    # The scheduler, as this engine sees it.

    def decide(self, questions: Sequence[Question], nodes: NodeRows) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        self._thinks = self.world.think_s > 0.0
        return self._placer.decide(questions, nodes)

    # The store, as this engine sees it.

    def transact(self, works: Sequence[Work]) -> list[Any]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        fault: Fault | None = None

        def before(tx: MemoryTx) -> None:
            nonlocal fault
            fault = self._at_record(tx)
            if fault is Fault.STORE_ERROR:
                raise StoreDown

        results = self.world.store.transact(works, before if self.world.faults.expected else None)
        if self.world.audited:
            self.world.findings += audit(self.world.store.rows, self.world.flows)
        if fault is Fault.STORE_LOST:
            self.world.store_back_at = self.env.now + self.world.faults.outage_s
            raise StoreDown
        if fault is Fault.CRASH_AFTER_RECORD:
            raise Crash
        return results

    def _at_record(self, tx: MemoryTx) -> Fault | None:
        for table, key, _ in tx.journal:
            event = self.world.store.tables["event"].get(key) if table == "event" else None
            if event is None:
                continue
            direction = OUTCOMES.get(event["kind"])
            if direction is not None:
                fault = self.world.faults.fire(event["step"], direction, AT_RECORD)
                if fault is not None:
                    return fault
        return None

    def _reach(self) -> None:
        if self.env.now < self.world.store_back_at:
            raise StoreDown

    def claimable(self, me: str, versions: Sequence[tuple[str, int, str]], limit: int) -> list[int]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.claimable(me, versions, limit)

    def cancelled(self, me: str) -> list[int]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.cancelled(me)

    def answered(self, me: str) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.answered(me)

    def undelivered(self, nodes: Sequence[str], me: str) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.undelivered(nodes, me)

    def nodes(self, revision: int, names: Collection[str]) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.nodes(revision, names)

    def sessions(self) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.sessions()

    def events_since(self, revision: int, limit: int) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.events_since(revision, limit)

    def compacted_changes(self, limit: int) -> list[Key]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.compacted_changes(limit)

    def closed_before(self, time: float, limit: int) -> list[int]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.closed_before(time, limit)

    def now(self) -> float:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.now()

    def rows(self, table: str, *, limit: int | None = None, newest: bool = False, **equal: Any) -> list[Row]:
        """As in `gpve.world.store.Store`."""
        self._reach()
        return self.world.store.rows(table, limit=limit, newest=newest, **equal)


AT_SENDING = (Fault.CRASH_BEFORE_SEND,)
AT_ANSWER = (Fault.CRASH_BEFORE_RECORD, Fault.LEASE_STOLEN, Fault.CANCEL)
AT_RECORD = tuple(f for f in AT_ENGINE if f in (Fault.STORE_ERROR, Fault.STORE_LOST, Fault.CRASH_AFTER_RECORD))
