"""A scenario while it plays: its world, what the script makes happen there, and the log of all that can be seen."""

import json
from collections.abc import Callable, Generator
from typing import Any

import simpy

from gpve.model.reasons import counted
from gpve.tasks.advance import Operation
from gpve.tasks.errors import TaskError
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.submit import cancel, resume
from gpve.world.hardware import RUNS
from gpve.world.store import StoreDown
from gpve_sim.world.engine import SimEngine, World
from gpve_sim.world.scenario_cluster import Clock, FollowedStore, Mishap, StagedNodes
from gpve_sim.world.scenario_phrases import phrase
from gpve_sim.world.scenario_script import Line, Wish

PATIENCE_S = 10.0
"""After so long without an answer a user's program asks the next engine, with the same key."""
AGAIN_S = 1.0
"""How long it waits when the store does not answer."""
FOR_EVER = float("inf")


class Stage:
    """A world, its script, its log."""

    def __init__(self, world: World, script: list[Line]) -> None:
        assert isinstance(world.store, FollowedStore)
        assert isinstance(world.nodes, StagedNodes)
        self.world, self.env, self.store, self.nodes = world, world.env, world.store, world.nodes
        self.log: list[str] = []
        self.failures: list[str] = []
        """Expectations that do not hold, and lines that never came to be said."""
        self.found: list[str] = []
        """What must never be, seen at some moment."""
        self.damaged: set[int] = set()
        """Tasks whose log the script damaged."""
        self._awaited = [line for line in script if line.event is not None]
        self.store.written = self._written
        self.nodes.made = self._made
        self.nodes.restarted = self._restarted
        for line in script:
            if line.event is None:
                self.env.process(self._later(line, line.at))
        self._until = max(line.at for line in script if line.event is None)

    def play(self) -> None:
        """Play to the last line."""
        # What happens at that very moment is part of it.
        self.env.run(self._until + 1e-6)
        for line in self._awaited:
            self.failures.append(f"line {line.number}: its moment never came: {line.text}")
        for mishap in self.nodes.mishaps:
            if not mishap.befell:
                self.failures.append(f"no {mishap.verb} came to node {mishap.node} for {mishap.kind!r} to befall")

    def say(self, text: str) -> None:
        """A line of the log."""
        self.log.append(f"{self.env.now:12.3f}  {text}")

    def engine(self, name: str) -> SimEngine:
        """An engine by name."""
        return next(engine for engine in self.world.engines if engine.name == name)

    def _later(self, line: Line, after: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(after)
        self._perform(line)

    def _perform(self, line: Line) -> None:
        if isinstance(line.said, Wish):
            self.say(line.text)
            self.env.process(self._ask(line, line.said))
        elif line.text.startswith("expect "):
            wrong = line.said.act(self, *line.said.values)
            self.say(f"{line.text}: {'yes' if wrong is None else f'no, {wrong}'}")
            if wrong is not None:
                self.failures.append(f"line {line.number}: {line.text}: {wrong}")
        else:
            self.say(line.text)
            line.said.act(self, *line.said.values)

    def _ask(self, line: Line, wish: Wish) -> Generator[simpy.Event, Any, None]:
        """What a user's program does: ask an engine, and another one if it says nothing, until there is an answer."""
        engines = self.world.engines
        turn = 0 if wish.engine is None else engines.index(self.engine(wish.engine))
        while True:
            answered = self.env.event()
            engines[turn % len(engines)].submit(wish.request, _once(answered))
            turn += 1
            yield answered | self.env.timeout(PATIENCE_S)
            answer = answered.value if answered.triggered else None
            if answer is not None and not isinstance(answer, StoreDown):
                break
            if answer is not None:
                yield self.env.timeout(AGAIN_S)
        self._told(line, answer, f"task {answer['id']}" if isinstance(answer, dict) else "")

    def _told(self, line: Line, answer: Any, text: str) -> None:
        if isinstance(answer, TaskError):
            text = f"refused: {answer}"
        elif isinstance(answer, Exception):
            text = f"{type(answer).__name__}: {answer}"
            self.found.append(f"line {line.number} was answered with {text}")
        self.say(f"{line.text} -> {text}")

    def write(self, what: str, run: Callable[[Tx], Any]) -> None:
        """What a user's program does to the store itself, now or when it answers again."""
        if self.env.now < self.world.store_back_at:
            self.env.process(self._write_later(what, run))
            return
        (answer,) = self.store.transact([Work(run)])
        if isinstance(answer, TaskError):
            self.say(f"{what} -> refused: {answer}")
        elif isinstance(answer, Exception):
            self.found.append(f"{what} was answered with {type(answer).__name__}: {answer}")

    def _write_later(self, what: str, run: Callable[[Tx], Any]) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(self.world.store_back_at - self.env.now)
        self.write(what, run)

    def _written(self, events: list[Row], alarms: list[Row]) -> None:
        """Events are in the store: log them, and do what waited for them."""
        for row in events:
            self.say(_line_of(row))
        for row in alarms:
            self.say(f"alarm: task {row['task']}: {row['text']}")
        for row in events:
            seen = (row["task"], row["step"], row["kind"])
            for line in list(self._awaited):
                event = line.event
                if event is None or (event.task, event.step, event.kind) != seen:
                    continue
                self._awaited.remove(line)
                if line.at:
                    self.env.process(self._later(line, line.at))
                else:
                    self._perform(line)

    def _made(self, operation: Operation) -> None:
        """A node changed something: no guest may run on two of them."""
        self._runs_once(operation.arguments.get("guest"))

    def _restarted(self, node: str, guest: int) -> None:
        self.say(f"node {node} has its lease again and restarts guest {guest}")
        self._runs_once(guest)

    def _runs_once(self, guest: Any) -> None:
        hardware = {name: node.hardware for name, node in self.nodes.by_name.items()}
        for kind in RUNS:
            runs = [name for name, things in hardware.items() if getattr(things, kind).get(guest) == "running"]
            if len(runs) > 1:
                self.found.append(f"guest {guest} ran on {' and '.join(runs)} at {self.env.now:.3f} s")


def _once(answered: simpy.Event) -> Callable[[Any], None]:
    def answer(value: Any) -> None:
        if not answered.triggered:
            answered.succeed(value)

    return answer


def _line_of(row: Row) -> str:
    """An event, without what is of no interest to a reader, as moments of retries."""
    data = json.loads(row["data"])
    text = f"task {row['task']}  {row['kind']} {row['step']}".rstrip()
    details = [str(data[name]) for name in ("outcome", "engine") if name in data]
    details += counted(data.get("reasons", {}))
    if data.get("result", {}).get("node"):
        details.append(f"on {data['result']['node']}")
    if data.get("tombstone"):
        details.append("nothing is there")
    details += [str(data[name]) for name in ("reason", "refused") if name in data]
    return f"{text}: {'; '.join(details)}" if details else text


@phrase("task cancel N")
def _cancel(stage: Stage, task: int) -> None:
    stage.write(f"task cancel {task}", lambda tx: cancel(tx, task, "by root"))


@phrase("task resume N")
def _resume(stage: Stage, task: int) -> None:
    stage.write(f"task resume {task}", lambda tx: resume(tx, task))


@phrase("node NODE power off")
def _power_off(stage: Stage, node: str) -> None:
    stage.nodes.power_loss(node, FOR_EVER)


@phrase("node NODE power off for S")
def _power_off_for(stage: Stage, node: str, seconds: float) -> None:
    stage.nodes.power_loss(node, seconds)


@phrase("node NODE cut off for S")
def _cut_off(stage: Stage, node: str, seconds: float) -> None:
    stage.nodes.cut_off(node, seconds)


@phrase("engine ENGINE parted from NODE for S")
def _part(stage: Stage, engine: str, node: str, seconds: float) -> None:
    stage.engine(engine).part(node, seconds)


@phrase("engine ENGINE crash")
def _crash(stage: Stage, engine: str) -> None:
    stage.engine(engine).crash()


@phrase("engine ENGINE pause S")
def _pause(stage: Stage, engine: str, seconds: float) -> None:
    stage.engine(engine).pause(seconds)


@phrase("store down for S")
def _store_down(stage: Stage, seconds: float) -> None:
    stage.world.store_back_at = stage.env.now + seconds


@phrase("clock jump S")
def _jump(stage: Stage, seconds: float) -> None:
    clock = stage.store.clock
    assert isinstance(clock, Clock)
    clock.ahead_s += seconds


@phrase("refuse VERB on NODE")
def _refuse(stage: Stage, verb: str, node: str) -> None:
    stage.nodes.mishaps.append(Mishap("refuse", verb, node, FOR_EVER))


@phrase("refuse VERB on NODE times N")
def _refuse_times(stage: Stage, verb: str, node: str, times: int) -> None:
    stage.nodes.mishaps.append(Mishap("refuse", verb, node, times))


@phrase("accept VERB on NODE")
def _accept(stage: Stage, verb: str, node: str) -> None:
    for mishap in stage.nodes.mishaps:
        if (mishap.kind, mishap.verb, mishap.node) == ("refuse", verb, node):
            mishap.left = 0


@phrase("lose VERB on NODE times N")
def _lose(stage: Stage, verb: str, node: str, times: int) -> None:
    stage.nodes.mishaps.append(Mishap("lose", verb, node, times))


@phrase("lose the answer to VERB on NODE times N")
def _mute(stage: Stage, verb: str, node: str, times: int) -> None:
    stage.nodes.mishaps.append(Mishap("mute", verb, node, times))


@phrase("repeat VERB on NODE after S")
def _repeat(stage: Stage, verb: str, node: str, seconds: float) -> None:
    stage.nodes.mishaps.append(Mishap("repeat", verb, node, seconds=seconds))


@phrase("delay VERB on NODE by S")
def _delay(stage: Stage, verb: str, node: str, seconds: float) -> None:
    stage.nodes.mishaps.append(Mishap("delay", verb, node, seconds=seconds))


@phrase("guest N ignores the power button")
def _deafen(stage: Stage, guest: int) -> None:
    for node in stage.nodes.by_name.values():
        node.hardware.deaf.add(guest)


@phrase("log of task N damaged")
def _damage(stage: Stage, task: int) -> None:
    row = stage.store.tables["event"][task, 0]
    stage.damaged.add(task)
    stage.store.set("event", (task, 0), {**row, "data": f"? {row['data']}"})


@phrase("log of task N mended")
def _mend(stage: Stage, task: int) -> None:
    row = stage.store.tables["event"][task, 0]
    stage.store.set("event", (task, 0), {**row, "data": row["data"].removeprefix("? ")})
