"""An engine without its input and output: which transactions are due, which operations and questions go out.

A driver (live: `gpve.engine`; simulated: `gpve_sim.world`) runs the same few lines in a loop: hand in what came, make
the transactions of `jobs`, send what `outgoing` and `questions` hold, sleep until `wake`. Times given to a worker are
of a monotonic clock of the driver's; times in the store are of the store's clock; nothing compares one with the other.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gpve.tasks.advance import Advanced, Observation, Operation, Question, Surroundings, advance, operation_of, wants
from gpve.tasks.errors import CorruptLog, Fenced
from gpve.tasks.events import decode, encode
from gpve.tasks.flow import Flow, Flows
from gpve.tasks.ha import Watch, declare_dead, recover, rejoin, renew
from gpve.tasks.lease import Taken, beat, leave, poison, take, take_new
from gpve.tasks.ledger import Key, Looks, Row, Tx, Work
from gpve.tasks.machine import Direction
from gpve.tasks.operations import OpKey, key_of
from gpve.tasks.outcome import Outcome, Unknown, from_json, to_json
from gpve.tasks.records import Decided, NoFit
from gpve.tasks.retention import forget_changes, forget_tasks
from gpve.tasks.state import CLOSED, Status, TaskState
from gpve.tasks.submit import Request, submit

NEVER = float("inf")
UNSENT = 256
"""Operations for one node that are kept before it is looked which of them still matter."""
LEAST_S = 1e-6
"""No task that rests is looked at again sooner."""


@dataclass(frozen=True)
class Rules:
    """How an engine behaves. Times in seconds."""

    lease_s: float = 15.0
    sweep_s: float = 1.0
    """How often to look for work, cancellations and answers that nobody told of."""
    most: int = 200
    """Tasks driven at once; those that wait for a place do not count."""
    seed: int = 0
    """Of the jitter of retries."""
    node_lease_s: float = 15.0
    """How long a node may run ``ha`` guests after it has sent a beat that was acknowledged."""
    node_margin_s: float = 5.0
    """How much longer an engine waits before it declares a node dead."""
    keep_s: float = 7 * 86_400.0
    """How long a closed task is kept, with its log and its idempotency key."""
    asks_again: bool = True
    """Whether all that wait for a place are asked for whenever a task is over; else `capacity` alone asks."""


@dataclass
class Job:
    """A piece of work for the store, and who wants its result (or exception)."""

    work: Work
    then: Callable[[Any], None]


@dataclass
class _Active:
    row: Row
    flow: Flow
    body: Any
    state: TaskState
    inbox: list[Observation] = field(default_factory=list)
    due: float = NEVER
    """When it is to be looked at again, whatever comes back."""
    soonest: float = NEVER
    """When the first thing of it falls due, if nothing comes back."""
    timer: float = NEVER
    """Its time on the worker's heap: not later than ``soonest``, which moves on while the task does."""
    sent: dict[tuple[str, Direction], tuple[float, str]] = field(default_factory=dict)
    """By (step, direction): when an answer is no longer expected, and of which node."""
    asked: dict[str, Question] = field(default_factory=dict)
    busy: bool = False


class Worker:
    """The tasks that one incarnation of an engine drives."""

    def __init__(
        self, name: str, incarnation: str, flows: Flows, rules: Rules, holds: Callable[[str], bool] = lambda node: True
    ) -> None:
        self.name, self.incarnation, self.flows, self.rules = name, incarnation, flows, rules
        self._around = Surroundings(rules.seed, holds)
        self._watch = Watch(rules.node_lease_s, rules.node_margin_s)
        self._boots: dict[str, str] = {}
        """By node: which start of it beat last, as far as this engine heard."""
        self._carrying: dict[OpKey, float] = {}
        """Operations sent for other engines, and until when an answer is expected."""
        self._unsent: dict[str, list[Operation]] = {}
        """By node: operations that could not be sent because this engine did not talk to it."""
        self.carried = False
        """Whether outcomes were noted for other engines since the driver last looked."""
        self.outgoing: list[Operation] = []
        """Operations to send now: their intent is committed."""
        self.questions: list[Question] = []
        """Decisions to ask for now."""
        self.over: list[tuple[int, Status]] = []
        """Tasks that came to an end here since the driver last looked, and how."""
        self.wants_work = True
        """Whether the driver should ask the store for claimable tasks."""
        self._active: dict[int, _Active] = {}
        self._ready: dict[int, None] = {}
        self._parked: dict[int, None] = {}
        """Tasks that wait for a place, in the order in which they began to."""
        self._timers: list[tuple[float, int]] = []
        """A heap of (time, task): look whether something of a task is due."""
        self._jobs: list[Job] = []
        self._submissions: list[Job] = []
        self._next_beat = 0.0
        self._next_sweep = 0.0
        self._now = 0.0

    def __len__(self) -> int:
        """Tasks in hand."""
        return len(self._active)

    @property
    def room(self) -> int:
        """How many more tasks may be claimed; below 0 where many were submitted at once."""
        return self.rules.most - len(self._active) + len(self._parked)

    def submit(self, wish: Request, then: Callable[[Any], None]) -> None:
        """Submit, and claim at once if the locks are free; ``then`` gets the task's row, or the error."""

        def run(tx: Tx) -> tuple[Row, Taken | None]:
            row = submit(tx, wish)
            taken = None
            if row["owner"] is None and row["seq"] == 1 and self.room > 0:
                taken = take_new(tx, wish, row, self.incarnation, self._around)
            return row, taken

        def after(result: Any) -> None:
            if isinstance(result, Exception):
                then(result)
                return
            row, taken = result
            self._taken(taken)
            then(row)

        self._submissions.append(Job(Work(run, wish.looks_at), after))

    def do(self, work: Work, then: Callable[[Any], None]) -> None:
        """Have somebody else's work made in the next transaction; ``then`` gets its result, or the error."""
        self._submissions.append(Job(work, then))

    def claim(self, tasks: Iterable[int]) -> None:
        """Try to claim tasks that the store says are to be had."""
        for task in tasks:
            if task in self._active:
                continue

            def run(tx: Tx, task: int = task) -> Taken | None:
                return take(tx, self.flows, task, self.incarnation, self._around)

            def after(result: Any, task: int = task) -> None:
                if isinstance(result, Exception):
                    self._set_aside(task, result)
                else:
                    self._taken(result)

            self._jobs.append(Job(Work(run, partial(Looks, [("task", (task,))])), after))
        self.wants_work = False

    def _set_aside(self, task: int, error: Exception) -> None:
        problem = str(error) if isinstance(error, CorruptLog) else f"{type(error).__name__}: {error}"
        self._jobs.append(Job(Work(lambda tx: poison(tx, task, self.incarnation, problem)), lambda _: None))

    def answer(self, operation: Operation, outcome: Outcome) -> None:
        """What came back for an operation; late, repeated and unexpected answers are welcome."""
        if key_of(operation) in self._carrying:
            self._carried(operation, outcome)
            return
        active = self._active.get(operation.task)
        if active is None or operation.epoch != active.row["epoch"]:
            return
        if active.sent.pop((operation.step, operation.direction), None) is None:
            return
        self._observe(active, Observation(operation.step, operation.direction, outcome))

    def carry(self, rows: Iterable[Row]) -> None:
        """Operations of other engines' tasks, for nodes that this one talks to: send them, and note what comes back."""
        for row in rows:
            operation = operation_of(row)
            if self._carrying.get(key_of(operation), -NEVER) <= self._now:
                self._carrying[key_of(operation)] = self._now + operation.attempt_s
                self.outgoing.append(operation)

    def unsent(self, operation: Operation) -> None:
        """The driver does not talk to this node now. Should the node come here in time, it is sent after all."""
        waiting = self._unsent.setdefault(operation.node, [])
        if len(waiting) >= UNSENT:
            waiting[:] = [other for other in waiting if self._awaits(other)]
        waiting.append(operation)

    def _awaits(self, operation: Operation) -> bool:
        """Whether an answer to this very operation would still be welcome."""
        active = self._active.get(operation.task)
        current = active is not None and active.row["epoch"] == operation.epoch
        return active is not None and current and (operation.step, operation.direction) in active.sent

    def answered(self, rows: Iterable[Row]) -> None:
        """Outbox rows of this engine's tasks that others carried, with what came back."""
        for row in rows:
            self.answer(operation_of(row), from_json(decode(row["outcome"])))

    def _carried(self, operation: Operation, outcome: Outcome) -> None:
        """Note an outcome for the owner of the task, unless it has sent something newer by now."""

        def run(tx: Tx) -> None:
            row = tx.get("outbox", *key_of(operation))
            if row is not None and row["epoch"] == operation.epoch:
                tx.put("outbox", {**row, "outcome": encode(to_json(outcome))})

        def told(_: Any) -> None:
            self.carried = True

        self._carrying.pop(key_of(operation), None)
        self._jobs.append(Job(Work(run), told))

    def decided(self, question: Question, answer: Decided | NoFit) -> None:
        """The scheduler's answer to a question."""
        active = self._active.get(question.task)
        if active is None or question.step not in active.asked:
            return
        if isinstance(answer, NoFit) and active.state.waiting == dict(answer.reasons):
            return
        del active.asked[question.step]
        self._observe(active, Observation(question.step, "do", answer))

    def cancelled(self, tasks: Iterable[int]) -> None:
        """Somebody asked for the end of these tasks."""
        for task in tasks:
            active = self._active.get(task)
            if active is not None and not active.state.cancel_answered:
                self._ready[task] = None

    def capacity(self) -> None:
        """Something may fit now that did not: ask again for all that waits."""
        for task in self._parked:
            self.questions.extend(self._active[task].asked.values())

    def look(self) -> None:
        """Sweep at the next turn."""
        self._next_sweep = 0.0

    def hear(self, node: str, boot: str, then: Callable[[bool], None]) -> None:
        """A node beats; ``then`` is told whether the beat was written and gives it a lease."""

        if self._boots.get(node, boot) != boot:
            # What it was doing is over, and nobody will hear of it.
            for active in self._active.values():
                for key in [key for key, (_, at) in active.sent.items() if at == node]:
                    self._unanswered(active, key, "the node was started anew")
        self._boots[node] = boot
        self.outgoing += [operation for operation in self._unsent.pop(node, ()) if self._awaits(operation)]

        def run(tx: Tx) -> bool:
            return renew(tx, node, boot, self.incarnation)

        reads = (("node", (node,)), ("session", (node,)))
        self._jobs.append(Job(Work(run, lambda: Looks(reads)), lambda result: then(result is True)))

    def watch(self, sessions: Iterable[Row], now: float) -> None:
        """Look at the beats of all nodes: declare dead who is silent, recover what ran there, take back who returns."""
        found = self._watch.look(sessions, now)
        for node, newest in found.silent:
            self.see_to(partial(declare_dead, node=node, beat=newest))
        for node in found.dead:
            self.see_to(partial(recover, node=node))
        for node in found.back:
            self.see_to(partial(rejoin, node=node))

    def see_to(self, run: Callable[[Tx], Any]) -> None:
        """Have a change of the store made; if its answer says so, there is work to be claimed afterwards."""

        def after(result: Any) -> None:
            self.wants_work |= bool(result)

        self._jobs.append(Job(Work(run), after))

    def forget(self, tasks: list[int], changes: Sequence[Key]) -> None:
        """These tasks have been kept long enough, and nobody can ask for these rows of the change log."""
        if tasks:
            self._jobs.append(Job(Work(lambda tx: forget_tasks(tx, tasks)), lambda _: None))
        if changes:
            self._jobs.append(Job(Work(lambda tx: forget_changes(tx, changes)), lambda _: None))

    def nothing(self) -> bool:
        """Whether there is nothing to do at this moment."""
        return not (self._jobs or self._submissions or self._ready or self.outgoing or self.questions)

    def sweep_due(self, now: float) -> bool:
        """Whether it is time to look for what nobody told of; says so once."""
        if now < self._next_sweep:
            return False
        self._now = now
        self._next_sweep = now + self.rules.sweep_s
        self.wants_work = self.room > 0
        self.capacity()
        return True

    def jobs(self, now: float) -> list[Job]:
        """The transactions that are due at ``now``, to be made as one."""
        self._now = now
        if now >= self._next_beat:
            self._next_beat = now + self.rules.lease_s / 3.0
            self._jobs.append(
                Job(Work(lambda tx: beat(tx, self.incarnation, self.name, self.rules.lease_s)), lambda _: None)
            )
        while self._soonest() <= now:
            _, task = heapq.heappop(self._timers)
            self._ring(self._active[task], now)
        for task in list(self._ready):
            found = self._active.get(task)
            if found is None:
                del self._ready[task]
            elif not found.busy:
                del self._ready[task]
                self._jobs.append(self._advancing(found))
        jobs = [*self._jobs, *self._submissions]
        self._jobs.clear()
        self._submissions.clear()
        return jobs

    def wake(self) -> float:
        """When there is something to do again, if nothing comes in."""
        return min(self._next_beat, self._next_sweep, self._soonest())

    def _soonest(self) -> float:
        """When the next thing of any task falls due.

        What a time on the heap was meant for is mostly over when the time is the soonest of all: then it is put back
        to where the task has something due by now.
        """
        timers = self._timers
        while timers:
            at, task = timers[0]
            active = self._active.get(task)
            if active is not None and active.soonest <= at:
                return at
            heapq.heappop(timers)
            if active is not None and active.timer == at:
                active.timer = NEVER
                self._set_timer(active)
        return NEVER

    def _arm(self, active: _Active) -> None:
        """Something may fall due sooner, or later, than it did before."""
        soonest = active.due
        for until, _ in active.sent.values():
            if until < soonest:
                soonest = until
        active.soonest = soonest
        self._set_timer(active)

    def _set_timer(self, active: _Active) -> None:
        if active.soonest < active.timer:
            active.timer = active.soonest
            heapq.heappush(self._timers, (active.timer, active.row["id"]))

    def _ring(self, active: _Active, now: float) -> None:
        """Something of a task is due."""
        active.timer = NEVER
        for key, (until, _) in list(active.sent.items()):
            if now >= until:
                self._unanswered(active, key, "no answer in time")
        if now >= active.due:
            self._ready[active.row["id"]] = None
            active.due = NEVER
        self._arm(active)

    def _unanswered(self, active: _Active, key: tuple[str, Direction], why: str) -> None:
        del active.sent[key]
        self._observe(active, Observation(*key, Unknown(why)))

    def reborn(self, incarnation: str) -> None:
        """The store broke in the middle: nobody knows what was committed. Start anew, and claim like anybody else."""
        before = self.incarnation
        self.incarnation = incarnation
        self._active.clear()
        self._parked.clear()
        self._timers.clear()
        self._ready.clear()
        self._carrying.clear()
        self._unsent.clear()
        self._watch = Watch(self.rules.node_lease_s, self.rules.node_margin_s)
        self.outgoing.clear()
        self.questions.clear()
        self._jobs = [Job(Work(lambda tx: leave(tx, before)), lambda _: None)]
        self._next_beat = 0.0
        self.wants_work = True

    def _drop(self, task: int) -> None:
        del self._active[task]
        self._parked.pop(task, None)

    def _observe(self, active: _Active, observation: Observation) -> None:
        active.inbox.append(observation)
        self._ready[active.row["id"]] = None

    def _advancing(self, active: _Active) -> Job:
        observations, active.inbox = active.inbox, []
        active.busy, active.due = True, NEVER
        row, state = active.row, active.state

        def run(tx: Tx) -> Advanced:
            return advance(tx, active.flow, row, active.body, state, observations, around=self._around)

        def after(result: Any) -> None:
            active.busy = False
            if isinstance(result, Exception):
                self._drop(row["id"])
                if not isinstance(result, Fenced):
                    self._set_aside(row["id"], result)
                return
            self._advanced(active, result)

        return Job(Work(run, lambda: wants(active.flow, row, active.body, state, observations)), after)

    def _taken(self, taken: Taken | None) -> None:
        if taken is None:
            return
        active = _Active(taken.row, taken.flow, taken.body, taken.advanced.state)
        self._active[taken.row["id"]] = active
        self._advanced(active, taken.advanced)

    def _advanced(self, active: _Active, result: Advanced) -> None:
        task = active.row["id"]
        active.state = result.state
        if result.state.status in CLOSED or result.state.status is Status.STUCK:
            self._drop(task)
            self.over.append((task, result.state.status))
            # A full engine leaves tasks lying: only the store knows whether there are any.
            self.wants_work |= result.freed or self.room <= 1
            if self.rules.asks_again:
                self.capacity()
            return
        parked = result.state.status is Status.WAITING
        if parked:
            self._parked.setdefault(task)
        else:
            self._parked.pop(task, None)
        if result.wake_at < NEVER:
            # Two clocks: a rest that vanishes in the sum would have the task looked at for ever at one moment.
            active.due = self._now + max(LEAST_S, result.wake_at - result.now)
        due = {(operation.step, operation.direction): operation for operation in result.operations}
        active.sent = {key: sent for key, sent in active.sent.items() if key in due}
        for key, operation in due.items():
            if key not in active.sent:
                until = self._now + operation.attempt_s
                active.sent[key] = until, operation.node
                self.outgoing.append(operation)
        self._arm(active)
        new = [question for question in result.questions if question.step not in active.asked]
        active.asked = {question.step: question for question in result.questions}
        if not parked:
            self.questions.extend(new)
