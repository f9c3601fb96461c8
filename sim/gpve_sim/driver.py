"""Replay a trace over a cluster under one policy: the driver of the compiled loop."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpve.model.columns import Guests, Nodes
from gpve.model.errors import InputError
from gpve.scheduler.cluster import INDEX_BYTES, check_models, state_of
from gpve.scheduler.columns import BAD_DEVICE, ERROR, ERROR_CLASS, ERROR_NODE, SCORED, State
from gpve.scheduler.fragmentation import Typical, typical_requests
from gpve.scheduler.policy import Policy
from gpve.scheduler.requests import Requests, requests_of
from gpve_sim.kernel.loop import finish, replay, start
from gpve_sim.kernel.tables import (
    A_ARRIVAL,
    A_LOG,
    A_STOP,
    AT_LIMIT,
    BACKFILL,
    BAD_POLICY,
    DROP,
    FAIL,
    LOG_FULL,
    WAIT,
    Load,
    Run,
)
from gpve_sim.streams import check_seed
from gpve_sim.trace import Trace
from gpve_sim.workload import NodeEvents, load_of, node_events, run_of

MODES = {"drop": DROP, "wait": WAIT, "backfill": BACKFILL}
"""What becomes of a guest that does not fit: dropped; waits, and all behind it; waits, smaller ones may pass."""
EVERY_ARRIVAL = 20_000
"""Up to so many arrivals without departures, the timeline has a row for each."""
SAMPLES = 1_000
"""Rows of a longer timeline, at equal steps."""

Progress = Callable[[int, int], None]
"""Called with (arrivals done, arrivals in all) about ten times a second."""


@dataclass(frozen=True)
class Settings:
    """How to replay; the defaults are those of the command line."""

    queue: str = "drop"
    departures: bool = True
    seed: int = 0
    limit: int = -1
    """Stop before this arrival (counted from 0); -1: go to the end."""
    index_bytes: int = INDEX_BYTES
    """Memory for the score index; changes the speed, never a placement."""

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class Replayed:
    """What a replay leaves: the arrays of the loop, with what is needed to read them."""

    trace: Trace
    nodes: Nodes
    policy: Policy
    settings: Settings
    requests: Requests
    typical: Typical
    state: State
    load: Load
    run: Run
    replay_s: float
    """Wall seconds of the loop and of sorting departures; without compiling, loading, writing."""
    scored: int
    """How often the policy's score was computed."""
    or_tools: dict[str, Any] | None = None
    """What the optimizer reported, where it decided in batches (`gpve_sim.batched`)."""

    @property
    def guests(self) -> Guests:
        """The guests of the trace."""
        return self.trace.guests


def replay_trace(
    trace: Trace,
    policy: Policy,
    *,
    nodes: Nodes | None = None,
    events: NodeEvents | None = None,
    settings: Settings | None = None,
    typical: Typical | None = None,
    progress: Progress | None = None,
) -> Replayed:
    """Replay ``trace`` over ``nodes`` (default: the trace's own cluster) under ``policy``.

    ``events`` come beside those of the nodes' own columns. ``typical`` are the requests that FGD and the
    fragmentation measure go by (default: of the trace itself). Raises `InputError` if the policy returns something
    that is not a score, or a constraint names a GPU model that no node has.
    """
    settings = settings or Settings()
    nodes = trace.nodes if nodes is None else nodes
    if settings.queue not in MODES:
        raise InputError(f"unknown queue mode {settings.queue!r}; known: {', '.join(MODES)}")
    guests = trace.guests
    check_models(guests, nodes)
    typical = typical_requests(guests, nodes.gpu_model_names) if typical is None else typical
    requests = requests_of(guests)
    state = state_of(nodes, requests, typical, settings.index_bytes)
    mode = MODES[settings.queue]
    departs = settings.departures and trace.departures
    changes = node_events(nodes)
    if events is not None:
        changes = NodeEvents.of(changes.rows() + events.rows())
    if FAIL in changes.kind and not departs:
        raise InputError("failures of nodes need departures: without them nothing runs for a time")
    sample_times, sample_every, rows = sampling(guests, departs)
    functions = policy.compiled
    started = time.perf_counter()
    load = load_of(guests, nodes, requests, changes, departs=departs, mode=mode, sample_times=sample_times)
    sorting_s = time.perf_counter() - started
    run = run_of(load, state, mode=mode, rows=rows)
    arguments = (*functions, policy.uniform, policy.keeps, settings.seed)
    _begin(state, load, run, arguments)
    _warm_up(arguments)
    run, looping_s = _drive(state, arguments, load, run, mode, sample_every, settings.limit, progress)
    if state.scalars[ERROR]:
        raise _complaint(policy, state, nodes)
    return Replayed(
        trace, nodes, policy, settings, requests, typical, state, load, run,
        replay_s=sorting_s + looping_s, scored=int(state.scalars[SCORED]),
    )  # fmt: skip


def _complaint(policy: Policy, state: State, nodes: Nodes) -> InputError:
    """What the policy did wrong, with the user's line."""
    cls = state.classes[int(state.scalars[ERROR_CLASS])]
    asked = f"({cls['cpu']} milli-CPU, {cls['mem']} MiB, {cls['gpu_count']} x {cls['gpu_milli']} milli-GPU)"
    where = f"for guest class {asked} on node {nodes.names[int(state.scalars[ERROR_NODE])]!r}"
    if state.scalars[ERROR] == BAD_DEVICE:
        part: Callable[..., Any] = policy.device
        problem = (
            f"chose a device that cannot take the share {where}; "
            "a device is the index of an item of free_gpu that is at least req.gpu_milli"
        )
    else:
        part = policy.score
        problem = (
            f"returned something that is not a score (NaN, infinity or below -1e290) {where}; "
            "a score is a finite number, or -inf to forbid the node"
        )
    code = part.__code__
    return InputError(f"policy {policy.name!r} {problem}", file=code.co_filename, line=code.co_firstlineno)


def sampling(guests: Guests, departs: bool) -> tuple[NDArray[np.float64], int, int]:
    """Times of timeline rows, or a row every k arrivals; and the rows that may come."""
    count = len(guests)
    if not departs:
        every = 1 if count <= EVERY_ARRIVAL else -(-count // SAMPLES)
        return np.zeros(0), every, count // every + 2
    ends = guests.departure_s[np.isfinite(guests.departure_s)]
    first = float(guests.arrival_s.min(initial=np.inf)) if count else 0.0
    last = max(float(guests.arrival_s.max(initial=0.0)), float(ends.max(initial=0.0)))
    times = np.linspace(first, last, SAMPLES + 1)[1:] if last > first else np.zeros(0)
    return times, 0, len(times) + 2


def _begin(state: State, load: Load, run: Run, arguments: tuple[Any, ...]) -> None:
    start(state, arguments, load, run)
    if len(load.arrival):
        run.clock[0] = load.arrival.min()


def _warm_up(arguments: tuple[Any, ...]) -> None:
    """Have the loop compiled (or fetched from the cache) before the clock runs: replay nothing on no nodes."""
    global _warm
    if _warm:
        return
    empty = Guests.empty()
    nodes = Nodes((), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
    requests = requests_of(empty)
    state = state_of(nodes, requests, typical_requests(empty, ()))
    load = load_of(empty, nodes, requests, NodeEvents.none(), departs=True, mode=DROP, sample_times=np.zeros(0))
    run = run_of(load, state, mode=DROP, rows=2)
    replay(state, arguments, load, run, DROP, 0, -1)
    finish(load, run)
    _warm = True


_warm = False


def _drive(
    state: State,
    arguments: tuple[Any, ...],
    load: Load,
    run: Run,
    mode: int,
    every: int,
    limit: int,
    progress: Progress | None,
) -> tuple[Run, float]:
    """Run the loop in a thread, so that progress can be shown and a key can stop it; (arrays, seconds)."""
    outcome: list[int] = []
    failure: list[BaseException] = []
    seconds = 0.0
    total = len(load.arrival)
    while not outcome or outcome[-1] == LOG_FULL:
        if outcome:
            wider = np.zeros((2 * len(run.log) + 2 * total // 8, run.log.shape[1]))
            wider[: run.at[A_LOG]] = run.log[: run.at[A_LOG]]
            run = run._replace(log=wider)

        def work(arrays: Run = run) -> None:
            try:
                outcome.append(replay(state, arguments, load, arrays, mode, every, limit))
            except BaseException as error:  # handed to the caller's thread
                failure.append(error)

        started = time.perf_counter()
        if progress is None:
            work()
        else:
            thread = threading.Thread(target=work, name="replay")
            thread.start()
            try:
                while thread.is_alive():
                    thread.join(0.1)
                    progress(int(run.at[A_ARRIVAL]), total)
            except BaseException:
                run.at[A_STOP] = 1
                thread.join()
                raise
        seconds += time.perf_counter() - started
        if failure:
            raise failure[0]
    if outcome[-1] not in (AT_LIMIT, BAD_POLICY):
        finish(load, run)
    return run, seconds
