"""Replay with the policy ``or-tools``: guests that arrive within a window are decided together, at its end.

For each batch a heuristic (FGD where there are GPUs, else best-fit) places the guests one by one; its answer is given
back and becomes the hint of `gpve.scheduler.optimize.place.place_batch`, whose answer is never worse. Guests start
when they are decided and keep their lifetime. What the batch leaves out, the heuristic tries once more (it also gives
the reason), then it is dropped or waits for the next batch. With the queue mode ``wait`` nobody passes the first that
does not fit: of each batch as many of the first guests are placed as the optimizer can place together, at least as
many as the heuristic would.

Where guests depart, what counts after the guests placed is to open few empty nodes, which then may be off. Where none
departs every node is needed sooner or later, and to fill those that run first only leaves fragments (measured: 87 %
of the GPUs of ``generated/openb-like`` placed, where FGD alone places 95 %): there it does not count.

Guests of higher priority stand first in a batch, then those who arrived first; a deadline is looked at when a batch is
decided. Guests with group rules, and those that ask for devices but for nothing of them, are left to the heuristic,
before the rest of their batch (with ``wait``, in their turn).

State, claims and records are those of the compiled loop: `gpve_sim.kernel.batch` has the steps.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpve.model.columns import Nodes
from gpve.model.errors import InputError
from gpve.model.reasons import Reason
from gpve.scheduler.cluster import check_models, state_of
from gpve.scheduler.columns import SCORED, State
from gpve.scheduler.compiled import bound
from gpve.scheduler.fragmentation import Typical, typical_requests
from gpve.scheduler.optimize.check import Objective, worth
from gpve.scheduler.optimize.place import Placement, place_batch
from gpve.scheduler.optimize.problem import Assignment, Batch
from gpve.scheduler.policy import Policy, load
from gpve.scheduler.requests import Requests, requests_of
from gpve_sim.best_possible import batch_of, objective_of
from gpve_sim.driver import MODES, Progress, Replayed, Settings, sampling
from gpve_sim.kernel import batch as steps
from gpve_sim.kernel import tables as t
from gpve_sim.kernel.loop import finish, start
from gpve_sim.policies import OR_TOOLS, Batching
from gpve_sim.trace import Trace
from gpve_sim.workload import load_of, node_events, run_of

Rows = NDArray[np.int64]
"""Rows of guests, in the order in which they are served."""
Flags = NDArray[np.bool_]

BATCH_SIZE = 50
"""Arrivals of one batch where nothing departs."""
WINDOW_S = 60.0
"""Seconds of one batch where guests depart."""


@dataclass(frozen=True)
class Decision:
    """What one batch came to; the levels are those of `check.worth`, to be maximised. With the queue mode ``wait`` the
    first is the number of guests placed without passing one."""

    time_s: float
    guests: int
    hint: tuple[int, ...]
    reached: tuple[int, ...]
    status: str
    gap: float


@dataclass
class _Replay:
    """The arrays of a replay, and what the optimizer said so far."""

    state: State
    policy: tuple[Any, ...]
    load: t.Load
    run: t.Run
    requests: Requests
    priority: NDArray[np.int32] | None
    queue: str
    limit: float
    spare_nodes: bool
    queued: set[int] = field(default_factory=set)
    decisions: list[Decision] = field(default_factory=list)
    deterministic_time: float = 0.0
    fuses: int = 0

    def until(self, time_s: float, arrivals: int) -> None:
        """Let time pass; see `steps.until`."""
        while steps.until(self.state, self.policy, self.load, self.run, time_s, arrivals) == t.LOG_FULL:
            self._widen(len(self.run.log) + 2 * len(self.load.arrival))

    def _widen(self, rows: int) -> None:
        wider = np.zeros((rows, self.run.log.shape[1]))
        wider[: self.run.at[t.A_LOG]] = self.run.log[: self.run.at[t.A_LOG]]
        self.run = self.run._replace(log=wider)

    def waiting(self) -> Rows:
        """The guests that wait."""
        rows = np.flatnonzero(self.run.waits)
        by_arrival = self.load.rank[rows]
        return rows[np.lexsort((by_arrival, -self.priority[rows] if self.priority is not None else by_arrival))]

    def decide(self, time_s: float) -> None:
        """Decide all that wait, at ``time_s``."""
        guests = self.waiting()
        if int(self.run.at[t.A_LOG]) + 2 * len(guests) + 4 > len(self.run.log):
            self._widen(2 * len(self.run.log) + 2 * len(guests) + 4)
        if self.queue != "drop" and len(self.load.deadline):
            for g in guests[self.load.deadline[guests] < time_s].tolist():
                steps.expire(self.run, g, time_s, int(Reason.DEADLINE))
            guests = guests[self.run.waits[guests] == 1]
        classes = self.requests.classes[self.requests.of_guest[guests]]
        alone = (classes["gpu_count"] > 0) & (classes["gpu_milli"] == 0)
        if len(self.requests.rule_of_guest):
            alone |= self.requests.rule_of_guest[guests] >= 0
        reasons = (self._in_turn if self.queue == "wait" else self._in_any_order)(guests, alone, time_s)
        for g, reason in reasons.items():
            if self.queue == "drop":
                steps.drop(self.run, g, time_s, reason)
            elif g not in self.queued:
                self.queued.add(g)
                steps.queue(self.run, g, time_s, reason)

    def _in_any_order(self, guests: Rows, alone: Flags, time_s: float) -> dict[int, int]:
        """Place as much as there is room for; the reasons of those left, by row."""
        reasons = self._one_by_one(guests[alone], time_s)
        together = guests[~alone]
        if len(together):
            batch = self._batch(together)
            hint, objective = self._hint(together), objective_of(self.state)
            placed = self._optimized(batch, hint, objective)
            before, after = (worth(batch, a, objective, False) for a in (hint, placed.assignment))
            self._note(time_s, len(together), before, after, placed.status, placed.gap)
            self._begin(together, placed.assignment, time_s)
        return reasons | self._one_by_one(together[self.run.waits[together] == 1], time_s)

    def _in_turn(self, guests: Rows, alone: Flags, time_s: float) -> dict[int, int]:
        """Place the first guests, up to the first that does not fit; its reason, and none (0) for those behind it."""
        at = 0
        while at < len(guests):
            together = guests[at : at + int(np.argmax(np.append(alone[at:], True)))]
            if len(together):
                at += self._place_first(together, time_s)
            if at < len(guests):
                refused = self._one_by_one(guests[at : at + 1], time_s)
                if refused:
                    return refused | dict.fromkeys(guests[at + 1 :].tolist(), 0)
                at += 1
        return {}

    def _place_first(self, guests: Rows, time_s: float) -> int:
        """Place as many of the first guests as is found, by bisection; how many."""
        hint = self._hint(guests)
        by_hint = int(np.argmax(np.append(hint.node, -1) < 0))
        placed: Placement | None = None
        count, trial = by_hint, len(guests)
        fails = impossible = len(guests) + 1
        while fails - count > 1:
            tried = self._optimized(self._batch(guests[:trial]), _first(hint, trial), "guests")
            if (tried.assignment.node >= 0).all():
                count, placed = trial, tried
            else:
                fails = trial
                if tried.levels[0].bound is not None and tried.levels[0].bound < trial:
                    impossible = trial
            trial = (count + fails) // 2
        if count == 0:
            proven = impossible == 1
            self._note(time_s, len(guests), (0, 0), (0, 0), "optimal" if proven else "heuristic", float(not proven))
            return 0
        if placed is None:
            placed = self._optimized(self._batch(guests[:count]), _first(hint, count), "guests")
        before = worth(self._batch(guests[:by_hint]), _first(hint, by_hint), "guests", False) if by_hint else (0, 0)
        after = worth(self._batch(guests[:count]), placed.assignment, "guests", False)
        status, gap = placed.status, placed.gap
        if count < impossible - 1:
            status = "feasible" if count > by_hint else "heuristic"
            gap = (impossible - 1 - count) / (impossible - 1)
        self._note(time_s, len(guests), before, after, status, gap)
        self._begin(guests[:count], placed.assignment, time_s)
        return count

    def _one_by_one(self, guests: Rows, time_s: float) -> dict[int, int]:
        """Place these by the heuristic; the reasons of those that fit nowhere."""
        found = {
            g: int(steps.settle_alone(self.state, self.policy, self.load, self.run, g, time_s)) for g in guests.tolist()
        }
        return {g: reason for g, reason in found.items() if reason}

    def _hint(self, guests: Rows) -> Assignment:
        """What the heuristic would do with these, one by one."""
        nodes, bits = np.full(len(guests), -1, np.int64), np.zeros(len(guests), np.int64)
        kept = self.state.nodes["state"].copy()
        steps.attempt(self.state, self.policy, self.load, guests, nodes, bits)
        self.state.nodes["state"] = kept
        return Assignment(nodes, tuple(_devices(b) for b in bits.tolist()))

    def _batch(self, guests: Rows) -> Batch:
        batch = batch_of(self.state, self.requests, guests, empty=False)
        return batch if self.spare_nodes else replace(batch, empty=np.zeros_like(batch.empty))

    def _optimized(self, batch: Batch, hint: Assignment, objective: Objective) -> Placement:
        limit = self.limit * max(1.0, len(batch.request_class) / BATCH_SIZE)
        placed = place_batch(batch, hint, objective=objective, deterministic_limit=limit)
        self.deterministic_time += placed.deterministic_time
        self.fuses += placed.fuse_blown
        return placed

    def _note(
        self, time_s: float, guests: int, before: tuple[int, ...], after: tuple[int, ...], status: str, gap: float
    ) -> None:
        self.decisions.append(Decision(time_s, guests, before, after, status, gap))

    def _begin(self, guests: Rows, assignment: Assignment, time_s: float) -> None:
        """Start those that got a node."""
        for i, g in enumerate(guests.tolist()):
            n = int(assignment.node[i])
            if n >= 0:
                devices = sum(1 << d for d in assignment.devices[i])
                steps.put(self.state, self.policy, self.load, self.run, g, n, devices, time_s)


def _first(assignment: Assignment, count: int) -> Assignment:
    """Of the first ``count`` requests."""
    return Assignment(assignment.node[:count], assignment.devices[:count])


def _devices(bits: int) -> tuple[int, ...]:
    return tuple(d for d in range(bits.bit_length()) if bits >> d & 1)


def replay_batched(
    trace: Trace,
    *,
    nodes: Nodes | None = None,
    settings: Settings | None = None,
    batching: Batching | None = None,
    heuristic: Policy | None = None,
    typical: Typical | None = None,
    progress: Progress | None = None,
) -> tuple[Replayed, list[Decision]]:
    """Replay ``trace`` over ``nodes`` (default: the trace's own cluster), decided in batches.

    ``heuristic`` gives the hints (default: FGD where the cluster has GPUs, else best-fit). Raises `InputError` for a
    window that does not go with the trace.
    """
    settings, batching = settings or Settings(), batching or Batching()
    nodes = trace.nodes if nodes is None else nodes
    if settings.queue not in MODES:
        raise InputError(f"unknown queue mode {settings.queue!r}; known: {', '.join(MODES)}")
    guests = trace.guests
    departs = settings.departures and trace.departures
    window, size = _window(batching, departs)
    check_models(guests, nodes)
    typical = typical_requests(guests, nodes.gpu_model_names) if typical is None else typical
    requests = requests_of(guests)
    state = state_of(nodes, requests, typical, settings.index_bytes)
    heuristic = heuristic or load("fgd" if state.free_gpu.shape[1] else "best-fit")
    sample_times = sampling(guests, departs)[0]
    # Everything waits until its batch is decided, whatever becomes of it then.
    arrays = load_of(
        guests, nodes, requests, node_events(nodes), departs=departs, mode=t.BACKFILL, sample_times=sample_times
    )
    rows = len(sample_times) + 2 if departs else 2 * len(guests) + len(arrays.event_time) + 2
    run = run_of(arrays, state, mode=t.BACKFILL, rows=rows)
    policy = (*heuristic.compiled, heuristic.uniform, heuristic.keeps, settings.seed)
    _warm_up(state, policy, arrays, run)
    start(state, policy, arrays, run)
    spare_nodes = departs if batching.spare_nodes is None else batching.spare_nodes
    limit = batching.deterministic_limit
    replay = _Replay(state, policy, arrays, run, requests, guests.priority, settings.queue, limit, spare_nodes)
    started = time.perf_counter()
    times = np.sort(guests.arrival_s)
    if len(times):
        run.clock[0] = times[0]
    while (end := _next(replay, times, window, size)) is not None:
        replay.until(*end)
        replay.decide(end[0])
        if not departs:
            steps.sample(replay.run)
        if progress is not None:
            progress(int(run.at[t.A_ARRIVAL]), len(times))
    replay.until(math.inf, len(times))
    finish(arrays, replay.run)
    statuses = Counter(d.status for d in replay.decisions)
    said = {
        "heuristic": heuristic.name,
        "batch_window_s": window,
        "batch_size": size,
        "batches": len(replay.decisions),
        "status": {name: statuses[name] for name in ("optimal", "feasible", "heuristic")},
        "better_than_hint": sum(d.reached > d.hint for d in replay.decisions),
        "worst_gap": max((d.gap for d in replay.decisions), default=0.0),
        "deterministic_time": round(replay.deterministic_time, 6),
        "fuses_blown": replay.fuses,
    }
    replayed = Replayed(
        trace, nodes, replace(heuristic, name=OR_TOOLS), settings, requests, typical, state, arrays, replay.run,
        replay_s=time.perf_counter() - started, scored=int(state.scalars[SCORED]), or_tools=said,
    )  # fmt: skip
    return replayed, replay.decisions


def _warm_up(state: State, policy: tuple[Any, ...], load: t.Load, run: t.Run) -> None:
    """Have every step compiled (or fetched from the cache) before the clock runs, without taking any."""
    g, rows = 0, np.zeros(0, np.int64)
    for step, arguments in (
        (steps.next_release, (load, run)),
        (steps.until, (state, policy, load, run, 0.0, 0)),
        (steps.attempt, (state, policy, load, rows, rows, rows)),
        (steps.put, (state, policy, load, run, g, 0, 0, 0.0)),
        (steps.settle_alone, (state, policy, load, run, g, 0.0)),
        (steps.drop, (run, g, 0.0, 0)),
        (steps.queue, (run, g, 0.0, 0)),
        (steps.expire, (run, g, 0.0, 0)),
        (steps.sample, (run,)),
        (finish, (load, run)),
    ):
        bound(step, *arguments)


def _window(batching: Batching, departs: bool) -> tuple[float | None, int | None]:
    """(seconds, None) where guests depart, (None, arrivals) where they do not."""
    if departs and batching.size is not None:
        raise InputError("a batch of so many arrivals goes with --no-departures; with departures, give --batch-window")
    if not departs and batching.window_s is not None:
        raise InputError("a batch window in seconds needs departures; without them, give --batch-size")
    if departs:
        window = WINDOW_S if batching.window_s is None else batching.window_s
        if not (math.isfinite(window) and window > 0):
            raise InputError(f"a batch window is a number of seconds above 0, not {window:g}")
        return window, None
    size = BATCH_SIZE if batching.size is None else batching.size
    if size < 1:
        raise InputError(f"a batch has at least 1 arrival, not {size}")
    return None, size


def _next(
    replay: _Replay, times: NDArray[np.float64], window: float | None, size: int | None
) -> tuple[float, int] | None:
    """When the next batch is decided, and how many have arrived by then; None if nothing is left to decide.

    A window begins at a whole number of windows after the first arrival; what arrives at its end belongs to the next.
    """
    arrived = int(replay.run.at[t.A_ARRIVAL])
    if size is not None and arrived < len(times):
        arrivals = min(arrived + size, len(times))
        return float(times[arrivals - 1]), arrivals
    due = float(times[arrived]) if arrived < len(times) else math.inf
    if replay.run.waits.any():
        due = min(due, float(steps.next_release(replay.load, replay.run)))
    if due == math.inf:
        return None
    if window is None:
        return due, arrived
    end = float(times[0]) + window * (math.floor((due - times[0]) / window) + 1)
    if end <= due:  # rounding: the window is shorter than the clock can tell apart
        end = math.nextafter(due, math.inf)
    return end, int(np.searchsorted(times, end, side="left"))
