"""A trace at lifecycle fidelity: every guest goes through the engine's own flows against simulated nodes.

A guest arrives: it is created and started. Its life begins when it runs; at the end it is stopped and deleted.
Decisions are those of the compiled core, guest by guest, on the very classes, group rules and lots of a replay at
placement fidelity; so where nothing takes time and nothing fails, both place every guest on the same node and devices.

At equal times: departures in the order of the trace, then arrivals in file order. The tasks of an event are driven as
far as they come at that moment before the next event is looked at.
"""

import csv
import heapq
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simpy
from numpy.typing import NDArray
from pyarrow import parquet

from gpve.model.columns import FOREVER, Nodes
from gpve.model.errors import InputError
from gpve.model.kinds import KINDS
from gpve.model.reasons import Reason
from gpve.scheduler.cluster import check_models, state_of
from gpve.scheduler.compiled import bound
from gpve.scheduler.fragmentation import typical_requests
from gpve.scheduler.policy import Policy
from gpve.scheduler.requests import requests_of
from gpve.tasks.advance import Question
from gpve.tasks.events import encode
from gpve.tasks.flow import Flow, Flows, Step
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.records import Decided, NoFit
from gpve.tasks.state import Status
from gpve.tasks.submit import request
from gpve.tasks.worker import Rules
from gpve_sim.experiment import Experiment, inputs
from gpve_sim.kernel.single import decide_single, release_single, start_single
from gpve_sim.policies import Batching, find_decider
from gpve_sim.results import device_text
from gpve_sim.trace import Trace
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Faults
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.profile import NO_TIME, Profile
from gpve_sim.world.store import MemoryStore

NEVER = float("inf")
DEPARTURE, ARRIVAL = 0, 3
"""Order at equal times; node events and retries of the queue stand between them."""
LIVES = {"vm": ("vm_stop", "vm_delete"), "vcluster": ("vcluster_stop", "vcluster_delete")}
LIVES["agent"] = ("agent_stop", "agent_delete")
"""By kind: the flows that end a guest."""
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
    replay_s: float

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
        undone = sum(row["kind"] == "undone" for row in self.store.tables["event"].values())
        return {
            "fidelity": "lifecycle",
            "arrivals": len(guests),
            "placed": int((self.node >= 0).sum()),
            "failed": int((self.node < 0).sum()),
            "time_to_running": by_kind,
            "tasks": dict(outcomes),
            "tasks_by_flow": {flow: dict(counts) for flow, counts in sorted(self.tasks.items())},
            "steps_undone": undone,
            "log_rows": len(self.store.tables["event"]),
            "replay_s": round(self.replay_s, 3),
            "guests_per_s": round(len(guests) / self.replay_s) if self.replay_s else None,
        }


class TracePlacer:
    """Decides for the guests of a trace by the compiled core, and takes back what the store has given back."""

    def __init__(self, trace: Trace, nodes: Nodes, policy: Policy, seed: int) -> None:
        requests = requests_of(trace.guests)
        typical = typical_requests(trace.guests, nodes.gpu_model_names)
        self.state = state_of(nodes, requests, typical)
        self._policy = (*policy.compiled, policy.uniform, policy.keeps, seed)
        self._class, self._rule = requests.of_guest, requests.rule_of_guest
        self._names = nodes.names
        self._gpu_milli = trace.guests.gpu_milli
        self.row_of: dict[int, int] = {}
        """Row in the trace, by the guest's number in the store."""
        self.taken: dict[int, tuple[int, int]] = {}
        """(node, devices) by row: what the core has claimed now."""
        self.placed: dict[int, tuple[int, int]] = {}
        """The same, for ever."""
        start_single(self.state, self._policy)
        self._decide = bound(decide_single, self.state, self._policy, 0, 0, 0)
        self._release = bound(release_single, self.state, self._policy, 0, 0, 0, 0)

    def decide(self, questions: Sequence[Question], nodes: Sequence[Row]) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        versions = {row["name"]: row["version"] for row in nodes}
        answers: list[Decided | NoFit] = []
        for question in questions:
            g = self.row_of[question.place.guest]
            n, devices = self._decide(self.state, self._policy, int(self._class[g]), self._rule_of(g), g)
            if n < 0:
                answers.append(NoFit({Reason(-n).sentence: len(nodes)}))
                continue
            self.taken[g] = self.placed[g] = (int(n), int(devices))
            name = self._names[n]
            milli = 0 if self._gpu_milli is None else int(self._gpu_milli[g])
            shares = {str(d): milli for d in range(int(devices).bit_length()) if int(devices) >> d & 1}
            answers.append(Decided(name, versions[name], shares))
            versions[name] += 1
        return answers

    def _rule_of(self, g: int) -> int:
        return int(self._rule[g]) if len(self._rule) else -1

    def given_back(self, guest: int) -> None:
        """The store has no claim of this guest any more."""
        g = self.row_of[guest]
        n, devices = self.taken.pop(g)
        self._release(self.state, self._policy, int(self._class[g]), self._rule_of(g), n, devices)


@dataclass
class _Life:
    """The tasks that are due for a guest, one after another."""

    row: int
    left: list[str] = field(default_factory=list)
    guest: int = -1


def without_waiting(flow: Flow) -> Flow:
    """The same flow, whose placement fails instead of waiting."""
    steps: list[Step] = [replace(step, waits=False) for step in flow.steps]
    return replace(flow, steps=steps)


class _Drive:
    """Hands the events of a trace to an engine."""

    def __init__(self, trace: Trace, nodes: Nodes, policy: Policy, seed: int, profile: Profile, queue: str) -> None:
        self.env = simpy.Environment(initial_time=min(0.0, float(trace.guests.arrival_s.min(initial=0.0))))
        self.trace = trace
        self.placer = TracePlacer(trace, nodes, policy, seed)
        self.store = MemoryStore(lambda: self.env.now)
        no_time = profile == NO_TIME
        sim_nodes = SimNodes(self.env, list(nodes.names), Faults(), delay_s=0.0 if no_time else 0.001)
        sim_nodes.work_of = profile.work_s
        flows = FLOWS if queue == "backfill" else Flows([without_waiting(flow) for flow in FLOWS])
        self.world = World(self.env, self.store, sim_nodes, lambda: self.placer, flows, rules=CALM)
        self.lives: dict[int, _Life] = {}
        self.tasks: dict[str, Counter[str]] = defaultdict(Counter)
        self.flow_of: dict[int, tuple[str, _Life]] = {}
        self.running_s = np.full(len(trace.guests), np.nan)
        self.departures: list[tuple[float, int]] = []
        self._bodies: list[Callable[[int], dict[str, Any]]] = []
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
        kind = KINDS[int(guests.kind[g])]
        life = self.lives[g] = _Life(g, list(LIVES[kind]))
        self._submit(f"{kind}_create", body, life)

    def _submit(self, flow: str, body: dict[str, Any], life: _Life) -> None:
        def then(answer: Any) -> None:
            if isinstance(answer, Exception):
                raise answer
            self.flow_of[answer["id"]] = (flow, life)
            life.guest = int(answer["target"])
            self.placer.row_of[life.guest] = life.row

        self.world.engines[0].submit(request(self.world.flows, flow, body), then)

    def depart(self, g: int) -> None:
        """End a guest: the next of the flows that end it."""
        life = self.lives[g]
        self._submit(life.left.pop(0), {"guest": life.guest}, life)

    def _over(self, task: int, status: Status) -> None:
        flow, life = self.flow_of.pop(task)
        self.tasks[flow][str(status)] += 1
        if status is not Status.DONE:
            return
        if flow.endswith("_create"):
            guests = self.trace.guests
            self.running_s[life.row] = self.env.now - guests.arrival_s[life.row]
            lasts = guests.departure_s[life.row] - guests.arrival_s[life.row]
            if lasts < FOREVER:
                # To the moment that the trace says, where nothing kept it waiting.
                on_time = self.env.now == guests.arrival_s[life.row]
                end = float(guests.departure_s[life.row]) if on_time else self.env.now + float(lasts)
                heapq.heappush(self.departures, (end, life.row))
        elif life.left:
            self.depart(life.row)

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
    progress: Callable[[int, int], None] | None = None,
) -> Lifecycle:
    """Replay ``trace`` through the task engine.

    ``queue``: ``drop`` or ``backfill``. Raises `InputError` for what is played at placement fidelity alone: nodes that
    join or are drained at given times, and the queue mode ``wait``.
    """
    nodes = trace.nodes if nodes is None else nodes
    if nodes.add_s is not None or nodes.drain_s is not None:
        raise InputError("nodes that join or are drained at given times are played at --fidelity placement alone")
    if queue not in ("drop", "backfill"):
        raise InputError(f"queue mode {queue!r} is played at --fidelity placement alone; say drop or backfill")
    check_models(trace.guests, nodes)
    guests = trace.guests
    drive = _Drive(trace, nodes, policy, seed, profile, queue)
    arrivals = np.argsort(guests.arrival_s, kind="stable")
    departs = trace.departures
    started = time.perf_counter()
    at = 0
    while True:
        next_arrival = float(guests.arrival_s[arrivals[at]]) if at < len(arrivals) else NEVER
        next_departure = drive.departures[0][0] if departs and drive.departures else NEVER
        now = min(next_arrival, next_departure)
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
        if next_departure <= next_arrival:
            drive.depart(heapq.heappop(drive.departures)[1])
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
    return Lifecycle(trace, nodes.names, node, devices, drive.running_s, dict(drive.tasks), drive.store, took)


def _work_ahead(drive: _Drive) -> bool:
    """Whether some task is still being driven, rather than waiting for a place that will not come."""
    return any(row["status"] not in ("waiting", "done", "undone") for row in _open(drive))


def _open(drive: _Drive) -> list[Row]:
    return [drive.store.tables["task"][task,] for task in drive.flow_of]


def run_lifecycle(
    experiment: Experiment, *, timed: bool = True, progress: Callable[[int, int], None] | None = None
) -> Lifecycle:
    """Replay what the command line names. ``timed``: with the default durations, else nothing takes any time."""
    decider = find_decider(experiment.policy)
    if isinstance(decider, Batching):
        raise InputError(f"the policy {experiment.policy} is played at --fidelity placement alone")
    trace, nodes, _ = inputs(experiment)
    if experiment.departures is not None:
        trace = replace(trace, departures=experiment.departures)
    return replay_lifecycle(
        trace,
        decider,
        nodes=nodes,
        seed=experiment.seed,
        profile=Profile(seed=experiment.seed) if timed else NO_TIME,
        queue=experiment.queue,
        progress=progress,
    )


def files_of(played: Lifecycle) -> dict[str, Callable[[Path], Any]]:
    """placements.csv (in order of arrival), summary.json, and log.parquet, the logs of all tasks."""
    return {
        "placements.csv": lambda path: _write_placements(played, path),
        "summary.json": lambda path: path.write_text(json.dumps(played.summary(), indent=2) + "\n"),
        "log.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(played.store.rows("event")), path),
    }


def _write_placements(played: Lifecycle, path: Path) -> None:
    guests = played.trace.guests
    names = guests.ids.to_pylist()
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["guest", "node", "devices"])
        for g in np.argsort(guests.arrival_s, kind="stable").tolist():
            n = int(played.node[g])
            writer.writerow([names[g], played.names[n] if n >= 0 else "", device_text(int(played.devices[g]))])
