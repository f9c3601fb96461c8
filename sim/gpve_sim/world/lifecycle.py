"""A trace at lifecycle fidelity: every guest goes through the engine's own flows against simulated nodes.

A guest arrives: it is created and started. Its life begins when it runs; an agent is paused while it is idle; at the
end a guest is stopped and deleted.
Decisions are those of the compiled core, guest by guest, on the very classes, group rules and lots of a replay at
placement fidelity; so where nothing takes time and nothing fails, both place every guest on the same node and devices.

At equal times: departures in the order of the trace, then arrivals in file order. The tasks of an event are driven as
far as they come at that moment before the next event is looked at.
"""

import heapq
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simpy
from numpy.typing import NDArray

from gpve.model.columns import FOREVER, Nodes
from gpve.model.errors import InputError
from gpve.model.kinds import KINDS, Kind
from gpve.scheduler.cluster import check_models
from gpve.scheduler.policy import Policy
from gpve.tasks.errors import Forbidden
from gpve.tasks.events import encode
from gpve.tasks.flow import Flow, Flows, Step
from gpve.tasks.flows import FLOWS
from gpve.tasks.ha import ACTOR
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import request, resume
from gpve.tasks.tables import TABLES
from gpve.tasks.worker import Rules
from gpve_sim.trace import Trace
from gpve_sim.world.archive import Archive
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Faults
from gpve_sim.world.node_outages import NodeOutages
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.outages import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Failures, Uptime
from gpve_sim.world.profile import NO_TIME, Profile
from gpve_sim.world.store import MemoryStore
from gpve_sim.world.trace_placer import TracePlacer

NEVER = float("inf")
DEPARTURE, PHASE, CRASH, FAIL = 0, 1, 2, 3
"""Order at equal times; arrivals come after all of them."""
AGAIN_S = 1.0
TRIES = 5
"""How often somebody whose guest was not made asks again, when it was not for want of room."""
LIVES = {"vm": ("vm_stop", "vm_delete"), "vcluster": ("vcluster_stop", "vcluster_delete")}
LIVES["agent"] = ("agent_stop", "agent_delete")
"""By kind: the flows that end a guest."""
SHARED: dict[str, dict[str, Any]] = {
    "vm": {"disks": [{"pool": "shared", "size_gib": 8}]},
    "vcluster": {"pool": "shared"},
}
"""By kind: where a guest with ha has its volumes."""
NO_FAILURES = Failures()
CALM = Rules(lease_s=1e9, sweep_s=1e9, most=1 << 30, keep_s=1e18)
"""One engine that nobody disturbs: nothing has to be looked for."""


@dataclass
class Lifecycle:
    """What a trace came to at lifecycle fidelity. G guests."""

    trace: Trace
    names: tuple[str, ...]
    """Of the nodes."""
    node: NDArray[np.int64]
    """(G,) row of the node on which a guest was placed; -1: never."""
    devices: NDArray[np.int64]
    """(G,) devices as bits."""
    running_s: NDArray[np.float64]
    """(G,) seconds from arrival until it ran; NaN: never."""
    tasks: dict[str, Counter[str]]
    """By flow: how many ended how."""
    store: MemoryStore
    archived: dict[str, Archive]
    """Tables `task` and `event`: what is over, and not in the store any more."""
    uptime: Uptime
    ended_at: float
    """Seconds."""
    node_failures: int
    replay_s: float

    def table(self, name: str) -> pa.Table:
        """The rows of table ``event`` or ``task``, by primary key."""
        live = Archive(name)
        live.add(self.store.rows(name))
        found = pa.concat_tables([self.archived[name].table(), live.table()])
        return found.sort_by([(column, "ascending") for column in TABLES[name].key])

    def rows(self, name: str) -> list[Row]:
        """The rows of any table, as the audit wants them."""
        return self.table(name).to_pylist() if name in self.archived else self.store.rows(name)

    @property
    def log(self) -> Any:
        """The logs of all tasks as a pandas frame: task, seq, kind, step, at (seconds), epoch, data, revision."""
        return self.table("event").to_pandas()

    def summary(self) -> dict[str, Any]:
        """What the command line prints."""
        guests = self.trace.guests
        ran = ~np.isnan(self.running_s)
        by_kind = {}
        for code, kind in enumerate(KINDS):
            times = self.running_s[ran & (guests.kind == code)]
            if len(times):
                p50, p99 = (round(float(np.percentile(times, q)), 6) for q in (50, 99))
                by_kind[kind] = {"guests": len(times), "p50_s": p50, "p99_s": p99}
        outcomes: Counter[str] = sum(self.tasks.values(), Counter())
        kinds = self.table("event").column("kind")
        undone = pc.sum(pc.equal(kinds, "undone")).as_py() or 0
        return {
            "fidelity": "lifecycle",
            "arrivals": len(guests),
            "placed": int((self.node >= 0).sum()),
            "failed": int((self.node < 0).sum()),
            "time_to_running": by_kind,
            "availability": self._availability(),
            "node_failures": self.node_failures,
            "restarts": int(self.uptime.restarts.sum()),
            "tasks": dict(outcomes),
            "tasks_by_flow": {flow: dict(counts) for flow, counts in sorted(self.tasks.items())},
            "steps_undone": undone,
            "log_rows": len(kinds),
            "replay_s": round(self.replay_s, 3),
            "guests_per_s": round(len(guests) / self.replay_s) if self.replay_s else None,
        }

    def _availability(self) -> dict[str, float]:
        """By kind: the share of the guests' lives in which they ran."""
        found = {}
        for code, kind in enumerate(KINDS):
            share = self.uptime.availability(self.trace.guests.kind == code, self.ended_at)
            if share is not None:
                found[kind] = round(share, 9)
        return found


@dataclass
class _Life:
    """A guest, and the flows that are due for it, one after another."""

    row: int
    guest: int = -1
    due: deque[str] = field(default_factory=deque)
    busy: bool = False
    over: bool = False
    """It departs: what was due before does not matter any more."""
    node: str | None = None
    tries: int = 0
    crashes: int = 0


def phases_of(trace: Trace) -> dict[int, list[tuple[float, str]]]:
    """By row of an agent: when it falls idle (it is paused) and when it goes on (resumed), in order."""
    usage = trace.usage
    if usage is None or usage.phase is None or "idle" not in usage.phase_names:
        return {}
    idle = usage.phase_names.index("idle")
    agents = trace.guests.kind == Kind.AGENT
    was_idle: dict[int, bool] = {}
    changes: dict[int, list[tuple[float, str]]] = defaultdict(list)
    # Rows are sorted by their start.
    for g, start, phase in zip(usage.guest.tolist(), usage.start_s.tolist(), usage.phase.tolist(), strict=True):
        if agents[g] and was_idle.get(g, False) != (phase == idle):
            was_idle[g] = phase == idle
            changes[g].append((start, "agent_pause" if phase == idle else "agent_resume"))
    return dict(changes)


def without_waiting(flow: Flow) -> Flow:
    """The same flow, whose placement fails instead of waiting."""
    steps: list[Step] = [replace(step, waits=False) for step in flow.steps]
    return replace(flow, steps=steps)


class _Drive:
    """Hands the events of a trace to an engine."""

    def __init__(
        self,
        trace: Trace,
        nodes: Nodes,
        policy: Policy,
        seed: int,
        profile: Profile,
        queue: str,
        failures: Failures,
    ) -> None:
        self.env = simpy.Environment(initial_time=min(0.0, float(trace.guests.arrival_s.min(initial=0.0))))
        self.trace = trace
        self.placer = TracePlacer(trace, nodes, policy, seed)
        self.store = MemoryStore(lambda: self.env.now, watched=False)
        self.archived = {"task": Archive("task"), "event": Archive("event")}
        no_time = profile == NO_TIME
        sim_nodes = SimNodes(self.env, list(nodes.names), Faults(), delay_s=0.0 if no_time else 0.001)
        sim_nodes.work_of = profile.work_s
        flows = FLOWS
        if queue == "drop":
            flows = Flows([without_waiting(flow) if flow.name.endswith("_create") else flow for flow in FLOWS])
        self.world = World(self.env, self.store, sim_nodes, lambda: self.placer, flows, rules=CALM)
        self.lives: dict[int, _Life] = {}
        self.tasks: dict[str, Counter[str]] = defaultdict(Counter)
        self.flow_of: dict[int, tuple[str, _Life]] = {}
        self.running_s = np.full(len(trace.guests), np.nan)
        self.ahead: list[tuple[float, int, int, str]] = []
        """A heap of (time, order, row, flow): departures, and agents that fall idle or go on."""
        self._phases = phases_of(trace)
        self.failures = failures
        self.uptime = Uptime(len(trace.guests))
        self.outages = NodeOutages(self.world, failures, self._fell, self._returned)
        self._life_of: dict[int, _Life] = {}
        """By the guest's number."""
        self._on: dict[str, set[int]] = defaultdict(set)
        """By node: the rows of the guests that run there."""
        self._crashes: dict[int, np.random.Generator] = {}
        self._stuck: list[int] = []
        self._until = float(
            np.where(trace.guests.departure_s < FOREVER, trace.guests.departure_s, -NEVER).max(initial=0)
        )
        self._until = max(self._until, float(trace.guests.arrival_s.max(initial=0.0)))
        for name in nodes.names:
            self._fail_next(name)
        self._fill(nodes)
        self.store.released = self.placer.given_back
        self.world.over = self._over
        self.world.start(1)

    def _fill(self, nodes: Nodes) -> None:
        records = self.placer.state.nodes

        def write(tx: Tx) -> None:
            for n, name in enumerate(nodes.names):
                gpus = [1000] * int(nodes.gpu_count[n])
                model = nodes.gpu_model_names[nodes.gpu_model[n]] if nodes.gpu_model[n] >= 0 else ""
                amounts = {"cpu_milli": int(records["cpu"][n]), "memory_mib": int(records["mem"][n])}
                row = {"name": name, "open": True, "alive": True, "gpu_model": model, "labels": "{}", "taints": "[]"}
                row |= {"used_cpu_milli": 0, "used_memory_mib": 0, "used_gpu_milli": encode([0] * len(gpus))}
                tx.put("node", {**row, **amounts, "gpus": encode(gpus), "version": 0})

        for error in self.store.transact([Work(write)]):
            if error is not None:
                raise error

    def arrive(self, g: int) -> None:
        """Create a guest, and start it."""
        guests = self.trace.guests
        body: dict[str, Any] = {
            "name": f"g{g}",
            # A trace may say that a guest needs nothing of one; a guest that is created must ask for something.
            "cpu_milli": max(1, int(guests.cpu_milli[g])),
            "memory_mib": max(1, int(guests.memory_mib[g])),
        }
        if guests.gpu_count is not None and guests.gpu_milli is not None:
            body |= {"gpu_count": int(guests.gpu_count[g]), "gpu_milli": int(guests.gpu_milli[g])}
        if self.failures.ha and self.failures.node_mtbf_s < NEVER:
            body["ha"] = True
            body |= SHARED.get(KINDS[int(guests.kind[g])], {})
        life = self.lives.get(g)
        if life is None:
            life = self.lives[g] = _Life(g)
        life.busy = True
        life.tries += 1
        if life.tries > 1:
            body["name"] += f"-{life.tries}"
        self._submit(f"{KINDS[int(guests.kind[g])]}_create", body, life)

    def _submit(self, flow: str, body: dict[str, Any], life: _Life) -> None:
        def then(answer: Any) -> None:
            if isinstance(answer, Forbidden):
                # High availability was quicker: again a little later.
                life.busy = False
                life.due.appendleft(flow)
                self.env.timeout(AGAIN_S).callbacks.append(lambda _: self._next(life))
                return
            if isinstance(answer, Exception):
                raise answer
            self.flow_of[answer["id"]] = (flow, life)
            life.guest = int(answer["target"])
            self.placer.row_of[life.guest] = life.row
            self._life_of[life.guest] = life

        self.world.engines[0].submit(request(self.world.flows, flow, body), then)

    def depart(self, g: int) -> None:
        """End a guest."""
        life = self.lives[g]
        life.over = True
        self.uptime.end(g, self.env.now)
        life.due.clear()
        life.due.extend(LIVES[KINDS[int(self.trace.guests.kind[g])]])
        self._next(life)

    def change(self, g: int, flow: str) -> None:
        """An agent falls idle or goes on."""
        life = self.lives[g]
        if not life.over:
            life.due.append(flow)
            self._next(life)

    def crash(self, g: int) -> None:
        """An agent's process ends by itself; its node starts it again after a while."""
        life = self.lives.get(g)
        if life is None or life.over or self.uptime.is_down(g):
            return
        now, backoff_s = self.env.now, min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0**life.crashes)
        life.crashes += 1
        self.uptime.down(g, now)
        self.uptime.up(g, now + backoff_s)
        self._crash_next(g, now + backoff_s)

    def _crash_next(self, g: int, after: float) -> None:
        if self.failures.agent_mtbf_s < NEVER and self.trace.guests.kind[g] == Kind.AGENT:
            lots = self._crashes.setdefault(g, self.failures.agent_lots(g))
            at = after + float(lots.exponential(self.failures.agent_mtbf_s))
            heapq.heappush(self.ahead, (at, CRASH, g, ""))

    def _fail_next(self, name: str) -> None:
        at = self.env.now + self.outages.until_next(name)
        if at < self._until:
            heapq.heappush(self.ahead, (at, FAIL, 0, name))

    def _fell(self, name: str) -> None:
        for row in self._on[name]:
            self.uptime.down(row, self.env.now)

    def _returned(self, name: str) -> None:
        self._fail_next(name)
        stuck, self._stuck = self._stuck, []
        for task in stuck:
            # What an operator does once the node is back.
            self.world.engines[0].see_to(partial(resume, task=task))

    def _next(self, life: _Life) -> None:
        if life.busy or not life.due or (life.node is not None and not self.outages.is_up(life.node)):
            return
        guest = self.store.tables["guest"][life.guest,]
        if guest["task"] is not None:
            # High availability is at work on it: afterwards.
            return
        stopped, due = guest["phase"] == "stopped", life.due[0]
        if stopped and life.over:
            life.due = deque(LIVES[guest["kind"]][1:])
        elif stopped and not due.endswith("_start"):
            # Its owner finds it stopped, and starts it again.
            life.due.appendleft(f"{guest['kind']}_start")
        elif guest["phase"] == "running" and due.endswith(("_resume", "_start")):
            life.due.popleft()
            self._next(life)
            return
        life.busy = True
        self._submit(life.due.popleft(), {"guest": life.guest}, life)

    def _over(self, task: int, status: Status) -> None:
        row = self.store.tables["task"][task,]
        flow = row["flow"]
        self.tasks[flow][str(status)] += 1
        asked = self.flow_of.get(task)
        life = asked[1] if asked else self._life_of.get(int(row["target"])) if row["target"].isdigit() else None
        if status in CLOSED:
            self.flow_of.pop(task, None)
            row, log = self.store.take_out(task)
            self.archived["task"].add([row])
            self.archived["event"].add(log)
            self.world.nodes.forget_effects(task)
            self.world.nodes.forget(task, row["epoch"])
        else:
            self._stuck.append(task)
            return
        if row["actor"] == ACTOR:
            # What high availability has done may have asked for more.
            self.world.engines[0].look()
        if flow == "node_survey":
            self._surveyed(row["target"])
        if life is None:
            return
        if asked is not None:
            life.busy = False
        if status is Status.DONE:
            self._done(flow, life)
        else:
            self._undone(flow, life, str(row["reason"]))
        self._next(life)

    def _done(self, flow: str, life: _Life) -> None:
        if flow.endswith("_delete"):
            self._settle_down(life, None)
            del self.lives[life.row], self._life_of[life.guest]
            life.due.clear()
            return
        guest = self.store.tables["guest"][life.guest,]
        if guest["phase"] == "running":
            self._settle_down(life, guest["node"])
            if self.outages.is_up(guest["node"]):
                self.uptime.up(life.row, self.env.now)
        if flow.endswith("_create"):
            self._begin(life.row)

    def _undone(self, flow: str, life: _Life, reason: str) -> None:
        if not flow.endswith("_create"):
            if life.guest in self._life_of and not flow.endswith("_recover"):
                life.due.appendleft(flow)
            return
        del self._life_of[life.guest]
        if "no node fits" not in reason and life.tries < TRIES:
            self.arrive(life.row)

    def _settle_down(self, life: _Life, node: str | None) -> None:
        if life.node is not None:
            self._on[life.node].discard(life.row)
        life.node = node
        if node is not None and not life.over:
            self._on[node].add(life.row)

    def _surveyed(self, name: str) -> None:
        """The store knows what survived: owners start again what did not."""
        for row in sorted(self._on[name]):
            life = self.lives[row]
            guest = self.store.tables["guest"][life.guest,]
            if guest["phase"] == "stopped" and guest["task"] is None and not life.busy:
                life.due.appendleft(f"{guest['kind']}_start")
            self._next(life)

    def _begin(self, g: int) -> None:
        """A guest runs: from now on count its life and its phases."""
        guests = self.trace.guests
        self.uptime.began[g] = self.env.now
        self._crash_next(g, self.env.now)
        self.running_s[g] = late = self.env.now - guests.arrival_s[g]
        if guests.departure_s[g] < FOREVER:
            # To the very moment that the trace says, where nothing kept it waiting.
            heapq.heappush(self.ahead, (float(guests.departure_s[g] + late), DEPARTURE, g, ""))
        for at, flow in self._phases.get(g, ()):
            heapq.heappush(self.ahead, (at + late, PHASE, g, flow))

    def settle(self) -> None:
        """Drive everything that can be done at this moment."""
        while self.env.peek() <= self.env.now:
            self.env.step()


def replay_lifecycle(
    trace: Trace,
    policy: Policy,
    *,
    nodes: Nodes | None = None,
    seed: int = 0,
    profile: Profile = NO_TIME,
    queue: str = "drop",
    failures: Failures = NO_FAILURES,
    progress: Callable[[int, int], None] | None = None,
) -> Lifecycle:
    """Replay ``trace`` through the task engine.

    ``queue``: ``drop`` or ``backfill``. ``failures``: what fails how often. Raises `InputError` for what is played at
    placement fidelity alone: nodes that join or are drained at given times, and the queue mode ``wait``.
    """
    nodes = trace.nodes if nodes is None else nodes
    if nodes.add_s is not None or nodes.drain_s is not None:
        raise InputError("nodes that join or are drained at given times are played at --fidelity placement alone")
    if queue not in ("drop", "backfill"):
        raise InputError(f"queue mode {queue!r} is played at --fidelity placement alone; say drop or backfill")
    check_models(trace.guests, nodes)
    guests = trace.guests
    arrivals = np.argsort(guests.arrival_s, kind="stable")
    if not trace.departures:
        trace = replace(trace, guests=replace(guests, departure_s=np.full(len(guests), FOREVER)))
    drive = _Drive(trace, nodes, policy, seed, profile, queue, failures)
    started = time.perf_counter()
    at = 0
    while True:
        next_arrival = float(guests.arrival_s[arrivals[at]]) if at < len(arrivals) else NEVER
        next_change = drive.ahead[0][0] if drive.ahead else NEVER
        now = min(next_arrival, next_change)
        if now == NEVER:
            busy = drive.flow_of and drive.env.peek() < NEVER
            if not busy or not _work_ahead(drive):
                break
            drive.env.step()
            continue
        if drive.env.peek() < now:
            # What happens on the way may bring a departure forward.
            drive.env.step()
            continue
        if now > drive.env.now:
            drive.env.run(now)
        if next_change <= next_arrival:
            _, order, g, flow = heapq.heappop(drive.ahead)
            match order:
                case 0:
                    drive.depart(g)
                case 1:
                    drive.change(g, flow)
                case 2:
                    drive.crash(g)
                case _:
                    drive.outages.fail(flow)
        else:
            drive.arrive(int(arrivals[at]))
            at += 1
            if progress is not None and at % 256 == 0:
                progress(at, len(arrivals))
        drive.settle()
    took = time.perf_counter() - started
    count = len(guests)
    node, devices = np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for g, (n, bits) in drive.placer.placed.items():
        node[g], devices[g] = n, bits
    return Lifecycle(
        trace,
        nodes.names,
        node,
        devices,
        drive.running_s,
        dict(drive.tasks),
        drive.store,
        drive.archived,
        drive.uptime,
        drive.env.now,
        drive.outages.count,
        took,
    )


def _work_ahead(drive: _Drive) -> bool:
    """Whether some task is still being driven, rather than waiting for a place that will not come."""
    return any(row["status"] not in ("waiting", "done", "undone") for row in _open(drive))


def _open(drive: _Drive) -> list[Row]:
    return [drive.store.tables["task"][task,] for task in drive.flow_of]
