"""Chaos: a plan is played in a simulated world, and everything that must always be true is looked at all the time.

After every transaction: guests, claims and quota; every so many transactions the logs as well. After every change on a
node: no guest runs on two. At the end, when the outages are over and stuck tasks were resumed: all tasks are over,
nothing is left anywhere, every effect was made once, and each node has what the store says, down to sizes and ports.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import simpy

from gpve.tasks.advance import Operation
from gpve.tasks.audit import audit, audit_guests
from gpve.tasks.errors import TaskError
from gpve.tasks.events import encode
from gpve.tasks.flows import FLOWS
from gpve.tasks.ha import ACTOR
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import cancel, request, resume
from gpve.world.hardware import RUNS
from gpve.world.store import StoreDown
from gpve_sim.world.chaos_look import at_rest
from gpve_sim.world.chaos_plan import FIRST_GUEST, Mishap, Plan, Resident, Wish
from gpve_sim.world.engine import SimEngine, World
from gpve_sim.world.faults import Fault, Faults
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.store import MemoryStore, MemoryTx
from gpve_sim.world.sweeping import best_fit
from gpve_sim.world.trial import add_guest, install, node_row

EVERY = 40
"""Transactions between two looks at the logs."""
MOST = 12
"""Findings that are kept of a run."""
OFTEN = 30
"""In no world does as much happen that high availability would have to begin a flow more often."""
PATIENCE_S = 900.0
"""So long after the last outage operators cancel what is still open."""
LONGEST_S = 100_000.0
"""By then every deadline has passed several times."""


@dataclass
class Report:
    """What came of a plan."""

    seed: int
    findings: list[str]
    tasks: dict[str, int]
    """How many ended how."""
    flows: dict[str, int]
    """How many followed which flow."""
    answers: dict[int, str]
    """To each wish: the task, or the kind of error."""
    met: list[str]
    """Mishaps that befell somebody."""
    resumed: int
    transactions: int
    digest: str
    """Of the whole log, of all answers and of all effects."""
    log: list[Row] = field(repr=False, default_factory=list)


def run_plan(plan: Plan, every: int = EVERY) -> Report:
    """Play a plan to its end, or to its first findings."""
    return _Chaos(plan, every).run()


class _Armed(Faults):
    """Faults that wait for the first command that they can befall."""

    def __init__(self, env: simpy.Environment, mishaps: Sequence[Mishap]) -> None:
        super().__init__(late_s=90.0, outage_s=20.0)
        self._env = env
        self.waiting = list(mishaps)
        self.met: list[str] = []
        """What befell commands, in that order."""

    @property
    def expected(self) -> bool:
        return bool(self.waiting)

    def fire(self, step: str, direction: str, among: Sequence[Fault]) -> Fault | None:
        for mishap in self.waiting:
            if mishap.at <= self._env.now and mishap.what in among and mishap.subject in ("", direction):
                self.waiting.remove(mishap)
                self.met.append(mishap.what)
                return Fault(mishap.what)
        return None


class _WatchedStore(MemoryStore):
    """A store that says when something was written."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.look: Callable[[], None] = lambda: None

    def transact(self, works: Sequence[Work], before: "Callable[[MemoryTx], None] | None" = None) -> list[Any]:
        revision = self.tables["counter"][("revision",)]["value"]
        results = super().transact(works, before)
        if self.tables["counter"][("revision",)]["value"] != revision:
            self.look()
        return results


class _Chaos:
    def __init__(self, plan: Plan, every: int) -> None:
        self.plan, self.every = plan, every
        self.env = env = simpy.Environment()
        self.jumped = 0.0
        faults = {str(fault) for fault in Fault}
        self.outages = [mishap for mishap in plan.mishaps if mishap.what not in faults]
        self.faults = _Armed(env, [mishap for mishap in plan.mishaps if mishap.what in faults])
        self.store = _WatchedStore(lambda: env.now + self.jumped)
        self.nodes = SimNodes(env, [node.name for node in plan.nodes], self.faults, leases=plan.ha)
        self.world = World(env, self.store, self.nodes, best_fit, FLOWS, self.faults, think_s=plan.think_s)
        self.findings: list[str] = []
        self.rows: dict[int, Row] = {}
        """The task of each wish that was granted."""
        self.answers: dict[int, str] = {}
        self.asking = len(plan.wishes)
        self.effects: list[str] = []
        self.asked: frozenset[int] = frozenset()
        """The tasks that there were when the world ended."""
        self.transactions = self.resumed = 0

    def run(self) -> Report:
        self._populate()
        self.store.look = self._after_transaction
        self.nodes.made = self._after_effect
        if self.plan.forget_s is not None:
            self.world.over = self._forget_later
        for at, held in enumerate(self.plan.engines):
            engine = SimEngine(self.world, f"engine-{at}", None if held is None else frozenset(held))
            self.world.engines.append(engine)
        if self.plan.ha:
            self.nodes.restarted = lambda node, guest: self._runs_once(guest, f"{node} had its lease again")
            self.world.beat()
        for wish in self.plan.wishes:
            self.env.process(self._ask(wish))
        for mishap in self.outages:
            self.env.process(self._befall(mishap))
        self._play()
        if not self.findings:
            self._look_at_the_end()
        log = self.store.rows("event")
        told = [*map(encode, log), encode({str(n): a for n, a in sorted(self.answers.items())}), *self.effects]
        rows = self.store.rows("task")
        tasks, flows = (dict(Counter(row[column] for row in rows)) for column in ("status", "flow"))
        return Report(
            self.plan.seed,
            list(dict.fromkeys(self.findings))[:MOST],
            tasks,
            flows,
            self.answers,
            [*(mishap.what for mishap in self.outages), *self.faults.met],
            self.resumed,
            self.transactions,
            hashlib.sha256("\n".join(told).encode()).hexdigest(),
            log,
        )

    # The world before anybody asks.

    def _populate(self) -> None:
        plan = self.plan
        none = {"gpu_count": 0, "gpu_milli": 0, "ha": False}

        def made_of(resident: Resident) -> dict[str, Any]:
            spec = {"cpu_milli": 1000, "memory_mib": 1024, **none, "snapshots": ["old"], "ha": resident.ha}
            return spec | ({"version": "v1.30.1"} if resident.kind == "vcluster" else {})

        def write(tx: Tx) -> None:
            for node in plan.nodes:
                gpus = {"gpus": encode([1000] * node.gpus), "used_gpu_milli": encode([0] * node.gpus)}
                tx.put("node", node_row(node.name, cores=node.cores) | gpus)
            for network in ("lan", "spare"):
                tx.put("network", {"name": network, "kind": "bridge", "task": None})
            spare = {"id": "spare", "guest": None, "pool": "local", "node": plan.nodes[0].name, "size_gib": 8}
            tx.put("volume", {**spare, "task": None})
            last = max((resident.guest for resident in plan.residents), default=FIRST_GUEST - 1)
            for resident in plan.residents:
                add_guest(tx, resident.guest, resident.kind, resident.phase, resident.node, made_of(resident))
            for _ in range(last - FIRST_GUEST + 1 - len(plan.residents)):
                tx.take("guest")
            quota = tx.get("quota", "default")
            if quota is not None:
                tx.put("quota", {**quota, "guests_limit": plan.guests_limit})

        for error in self.store.transact([Work(write)]):
            if error is not None:
                raise error
        self.nodes.by_name[plan.nodes[0].name].hardware.volumes["spare"] = None
        for resident in plan.residents:
            hardware = self.nodes.by_name[resident.node].hardware
            install(hardware, resident.guest, resident.kind, resident.phase, made_of(resident))

    # What people ask.

    def _ask(self, wish: Wish) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(wish.at)
        if wish.what == "cancel":
            self.answers[wish.number] = yield from self._cancel(wish)
        else:
            self.answers[wish.number] = yield from self._submit(wish)
        self.asking -= 1

    def _cancel(self, wish: Wish) -> Generator[simpy.Event, Any, str]:
        row = self.rows.get(wish.of) if wish.of is not None else None
        if row is None:
            return "nothing to cancel"
        while self.env.now < self.world.store_back_at:
            yield self.env.timeout(1.0)
        (answer,) = self.store.transact([Work(lambda tx: cancel(tx, row["id"], "chaos"))])
        return type(answer).__name__ if isinstance(answer, Exception) else "cancelled"

    def _submit(self, wish: Wish) -> Generator[simpy.Event, Any, str]:
        """As a client does: whom the store or the engine told nothing asks again, with the same key."""
        meant = wish
        if wish.what == "again":
            meant = next((other for other in self.plan.wishes if other.number == wish.of), wish)
        body = self._body(meant)
        if meant.what == "again" or body is None:
            return "nothing to do it to"
        try:
            asked = request(FLOWS, meant.what, body, key=f"wish-{meant.number}")
        except TaskError as error:
            return type(error).__name__
        for attempt in range(60):
            heard = self.env.event()

            def hear(answer: Any, heard: simpy.Event = heard) -> None:
                if not heard.triggered:
                    heard.succeed(answer)

            self.world.engines[(wish.engine + attempt) % len(self.world.engines)].submit(asked, hear)
            yield heard | self.env.timeout(5.0)
            answer = heard.value if heard.triggered else StoreDown()
            if not isinstance(answer, StoreDown):
                return self._heard(meant, answer)
            yield self.env.timeout(1.0)
        self._find(f"wish {wish.number} ({wish.what}) was never answered")
        return "no answer"

    def _body(self, wish: Wish) -> dict[str, Any] | None:
        """With the guest that a wish means; None: there is none."""
        guest = wish.body.get("guest")
        if not isinstance(guest, dict):
            return wish.body
        row = self.rows.get(guest["of"])
        if row is None or not (row["target"] or "").isdigit():
            return None
        return {**wish.body, "guest": int(row["target"])}

    def _heard(self, meant: Wish, answer: Any) -> str:
        if isinstance(answer, TaskError):
            return type(answer).__name__
        if isinstance(answer, Exception):
            self._find(f"wish {meant.number} ({meant.what}) was answered with {type(answer).__name__}: {answer}")
            return type(answer).__name__
        known = self.rows.setdefault(meant.number, answer)
        if known["id"] != answer["id"]:
            self._find(f"one key is two tasks: {known['id']} and {answer['id']}")
        return f"task {answer['id']}"

    # What befalls the world.

    def _befall(self, mishap: Mishap) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(mishap.at)
        match mishap.what:
            case "power":
                self.nodes.power_loss(mishap.subject, mishap.for_s)
            case "cut":
                self.nodes.cut_off(mishap.subject, mishap.for_s)
            case "part":
                node, engine = mishap.subject.split("/")
                self.world.engines[int(engine)].part(node, mishap.for_s)
            case "crash":
                self.world.engines[int(mishap.subject)].crash()
            case "pause":
                self.world.engines[int(mishap.subject)].pause(mishap.for_s)
            case "store down":
                self.world.store_back_at = max(self.world.store_back_at, self.env.now + mishap.for_s)
            case "clock":
                self.jumped += mishap.for_s

    def _play(self) -> None:
        over_at = max((mishap.at + max(0.0, mishap.for_s) for mishap in self.outages), default=0.0)
        while not self.findings and self.env.now < LONGEST_S:
            self.env.run(self.env.now + 25.0)
            tasks = self.store.tables["task"].values()
            if self.asking or self.env.now < over_at:
                continue
            # From here on nothing new happens: what waited for a command in vain does not come any more.
            self.faults.waiting.clear()
            if self.env.now < self.world.store_back_at:
                continue
            stuck = [row["id"] for row in tasks if row["status"] == Status.STUCK]
            still = [row["id"] for row in tasks if row["status"] not in (*CLOSED, Status.STUCK)]
            if not stuck and not still and self._all_back(over_at):
                break
            for task in stuck:
                self.resumed += 1
                self.store.transact([Work(partial(resume, task=task))])
            if self.env.now > over_at + PATIENCE_S:
                # What high availability has begun is for nobody to call off.
                late = [task for task in still if self.store.tables["task"][task,]["actor"] != ACTOR]
                self.store.transact([Work(partial(cancel, task=task, reason="late")) for task in late])
        self.world.stop()
        self.asked = frozenset(key[0] for key in self.store.tables["task"])
        if not self.findings:
            # What is still on its way arrives.
            self.env.run()

    def _all_back(self, over_at: float) -> bool:
        """Whether nothing is left for high availability to find out."""
        rules = self.world.rules
        found_by = over_at + rules.node_lease_s + rules.node_margin_s + 3.0 * rules.sweep_s
        alive = all(row["alive"] for row in self.store.tables["node"].values())
        alive &= not any(node.hardware.ended for node in self.nodes.by_name.values())
        return not self.plan.ha or (self.env.now > found_by and alive)

    def _forget_later(self, task: int, status: Status) -> None:
        if status in CLOSED and self.plan.forget_s is not None:
            epoch = self.store.tables["task"][task,]["epoch"]
            self.env.timeout(self.plan.forget_s).callbacks.append(lambda _: self.nodes.forget(task, epoch))

    # What must be true.

    def _find(self, finding: str) -> None:
        self.findings.append(finding)

    def _after_transaction(self) -> None:
        self.transactions += 1
        self.findings += audit_guests(self.store.rows)
        if self.transactions % self.every == 0:
            self.findings += audit(self.store.rows, FLOWS)

    def _after_effect(self, operation: Operation) -> None:
        self.effects.append(f"{self.env.now:.6f} {operation.node} {operation.task} {operation.verb}")
        self._runs_once(operation.arguments.get("guest"), operation.verb)

    def _runs_once(self, guest: Any, after: str) -> None:
        for kind in RUNS:
            on = [n for n, node in self.nodes.by_name.items() if getattr(node.hardware, kind).get(guest) == "running"]
            if len(on) > 1:
                self._find(f"guest {guest} runs on {' and '.join(on)} after {after}")

    def _look_at_the_end(self) -> None:
        for row in self.store.rows("task"):
            # What an engine that stood still accepts after the end, whose client has long had an answer elsewhere,
            # is for nobody to carry out.
            if row["id"] in self.asked and (row["status"] not in CLOSED or row["poison"] is not None):
                self._find(f"task {row['id']} ({row['flow']}) is {row['poison'] or row['status']} for ever")
        for flow, times in Counter(row["flow"] for row in self.store.rows("task") if row["actor"] == ACTOR).items():
            if times > OFTEN:
                self._find(f"high availability began {flow} {times} times")
        inventory = {name: node.hardware.snapshot() for name, node in self.nodes.by_name.items()}
        self.findings += audit(self.store.rows, FLOWS, inventory)
        for name, node in self.nodes.by_name.items():
            for key, count in node.made_twice():
                self._find(f"{count} effects of task {key[0]}, {key[1]}, {key[2]} on node {name}")
        # Where nodes beat, whatever they lost is found out.
        power_lost = not self.plan.ha and any(node.boots for node in self.nodes.by_name.values())
        self.findings += at_rest(self.store.rows, inventory, power_lost)


def summary(report: Report) -> dict[str, Any]:
    """In figures, for machines."""
    return {
        "seed": report.seed,
        "findings": report.findings,
        "tasks": dict(sorted(report.tasks.items())),
        "answers": len(report.answers),
        "refused": sum(not answer.startswith(("task ", "cancelled")) for answer in report.answers.values()),
        "mishaps": len(report.met),
        "resumed": report.resumed,
        "transactions": report.transactions,
        "log": report.digest,
    }
