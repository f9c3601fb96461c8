"""Policies (and clusters) side by side over several seeds: means, deviations, paired intervals."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gpve.model.columns import FOREVER, Nodes
from gpve.model.errors import InputError
from gpve.scheduler.fragmentation import typical_requests
from gpve.scheduler.policy import Policy
from gpve_sim.best_possible import Moment, Most, fewest_possible, most_possible
from gpve_sim.catalogue import load, load_nodes
from gpve_sim.driver import Replayed, Settings
from gpve_sim.experiment import replay_under
from gpve_sim.measures import Measured, curves, measure
from gpve_sim.policies import Batching, find_decider
from gpve_sim.streams import stream
from gpve_sim.trace import Trace

VARY = ("arrivals", "ties", "lifetimes")
"""What a seed can vary: the order of arrival (where nothing departs), the order of nodes (which decides ties), and
lifetimes that the reader draws."""


@dataclass(frozen=True)
class Case:
    """One run of a comparison."""

    policy: Policy | Batching
    cluster: str
    nodes: Nodes
    seed: int


class Comparison(Measured):
    """What a comparison found, with its pictures."""

    def plot(self, measure: str = "fragmentation_pct", path: str | Path | None = None) -> Any:
        """A figure of one measure over the load: mean of the seeds, with their range. Saved if ``path`` is given."""
        from gpve_sim.report import draw_curves

        drawn = draw_curves(self, measure)
        if path is not None:
            drawn.savefig(path)
        return drawn

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML file."""
        from gpve_sim.report import write_report

        return write_report(self, Path(path))


def vary(trace: Trace, nodes: Nodes, seed: int, varied: Sequence[str], departs: bool) -> tuple[Trace, Nodes]:
    """The trace and cluster of one seed (its drawn lifetimes come from the reader, which got the seed too)."""
    guests = trace.guests
    if "arrivals" in varied and not departs:
        order = stream(seed, "arrivals").permutation(len(guests))
        shuffled = replace(
            guests.take(order),
            arrival_s=np.arange(len(guests), dtype=np.float64),
            departure_s=np.full(len(guests), FOREVER),
        )
        trace = replace(trace, guests=shuffled, usage=None)
    if "ties" in varied:
        nodes = nodes.take(stream(seed, "ties").permutation(len(nodes)))
    return trace, nodes


def compare(
    trace: str | Trace,
    policies: Sequence[str | Policy | Batching],
    *,
    clusters: Sequence[str | Nodes] | None = None,
    seeds: int | Sequence[int] = 5,
    varied: Sequence[str] = VARY,
    departures: bool | None = None,
    queue: str = "drop",
    baseline: str | None = None,
    workers: int | None = None,
    bounds: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Replay ``trace`` under every policy, on every cluster, with every seed.

    ``seeds`` is a number (0, 1, ...) or a list. ``varied`` says what a seed varies (see `VARY`). ``baseline`` names
    the policy to compare with (default: the first). Runs share nothing and use all cores. ``bounds`` measures how far
    each is from the best possible (with departures: on the first seed only). Raises `InputError`.
    """
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    chosen = [find_decider(p) if isinstance(p, str) else p for p in policies]
    if not chosen or not seeds:
        raise InputError("a comparison needs at least one policy and one seed")
    unknown = set(varied) - set(VARY)
    if unknown:
        raise InputError(f"seeds cannot vary {sorted(unknown)[0]!r}; they can vary {', '.join(VARY)}")
    traces = _Traces(trace, "lifetimes" in varied)
    first = traces.get(seeds[0])
    named = _clusters(clusters, first)
    departs = first.departures if departures is None else departures and first.departures
    cases = [Case(p, name, nodes, seed) for seed in seeds for name, nodes in named for p in chosen]
    for policy in chosen:
        if isinstance(policy, Policy):
            _ = policy.compiled  # errors before any run, and no thread compiles for another
    settings = Settings(queue=queue, departures=departs)
    most = _Bounds(traces)
    done = 0
    lock = threading.Lock()

    def run(case: Case) -> tuple[dict[str, Any], pd.DataFrame, str, Most | list[Moment] | None]:
        nonlocal done
        original = traces.get(case.seed)
        varied_trace, nodes = vary(original, case.nodes, case.seed, varied, departs)
        replayed = replay_under(
            varied_trace,
            case.policy,
            nodes=nodes,
            settings=replace(settings, seed=case.seed),
            typical=typical_requests(original.guests, nodes.gpu_model_names),
        )
        row = case.policy.name if len(named) == 1 else f"{case.policy.name} on {case.cluster}"
        measured = measure(replayed, departs)
        curve, label = curves(replayed, departs)
        best: Most | list[Moment] | None = None
        if bounds and departs and case.seed == seeds[0]:
            best = fewest_possible(replayed)
        elif bounds and not departs:
            best = most_possible(replayed, most.get(case, replayed))
        with lock:
            done += 1
            if progress is not None:
                progress(done, len(cases))
        about = {"row": row, "policy": case.policy.name, "cluster": case.cluster, "seed": case.seed}
        return about | measured | _distance(best), curve.assign(row=row, seed=case.seed), label, best

    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        results = list(pool.map(run, cases))
    rows = pd.DataFrame([r for r, _, _, _ in results])
    names = list(rows["row"].drop_duplicates())
    reference = names[0]
    if baseline is not None:
        matching = [name for name in names if name == baseline or name.split(" on ")[0] == baseline]
        if not matching:
            raise InputError(f"the baseline {baseline!r} is not among the rows: {', '.join(names)}")
        reference = matching[0]
    return Comparison(
        trace=first.name,
        baseline=reference,
        varied=tuple(v for v in varied if v != "arrivals" or not departs),
        runs=rows,
        curves=pd.concat([c for _, c, _, _ in results], ignore_index=True),
        x_label=results[0][2],
        notes=first.notes,
        bounds=_in_words([(about, best) for about, _, _, best in results], len(named) > 1),
    )


class _Bounds:
    """The most that can be placed, once for each cluster and trace: the policy and what a seed varies do not matter."""

    def __init__(self, traces: "_Traces") -> None:
        self._traces = traces
        self._kept: dict[tuple[str, int], int] = {}
        self._locks: dict[tuple[str, int], threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, case: Case, replayed: Replayed) -> int:
        # Traces stay alive as long as this does: one address, one trace.
        key = case.cluster, id(self._traces.get(case.seed))
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._kept:
                self._kept[key] = most_possible(replayed).bound
            return self._kept[key]


def _distance(best: Most | list[Moment] | None) -> dict[str, float | None]:
    if isinstance(best, Most):
        return {"distance_pct": best.distance_pct}
    return {"distance_pct": float(np.mean([m.distance_pct for m in best])) if best else None}


def _in_words(found: list[tuple[dict[str, Any], Most | list[Moment] | None]], several: bool) -> dict[str, str]:
    """What the bounds say, for the report."""
    out: dict[str, str] = {}
    most: dict[str, list[int]] = {}
    for about, best in found:
        where = f" on {about['cluster']}" if several else ""
        if isinstance(best, Most):
            unit = "GPUs" if best.objective == "gpu" else "cores"
            most.setdefault(f"No policy could place more{where}, in {unit}", []).append(best.bound)
        elif best:
            times = ", ".join(f"{m.active:,} nodes where {m.lower:,} to {m.upper:,} would do" for m in best)
            out[f"{about['row']}, seed {about['seed']}, at {len(best)} moments"] = times
    return out | {
        name: f"{min(b) / 1000:,.1f}" + (f" to {max(b) / 1000:,.1f}" if min(b) < max(b) else "")
        for name, b in most.items()
    }


class _Traces:
    """The trace of each seed: read again only where the reader draws."""

    def __init__(self, trace: str | Trace, drawn: bool) -> None:
        self._trace = trace
        self._drawn = drawn
        self._kept: dict[int, Trace] = {}
        self._lock = threading.Lock()

    def get(self, seed: int) -> Trace:
        if isinstance(self._trace, Trace):
            return self._trace
        key = seed if self._drawn else 0
        with self._lock:
            if key not in self._kept:
                self._kept[key] = load(self._trace, seed=key)
            return self._kept[key]


def _clusters(clusters: Sequence[str | Nodes] | None, trace: Trace) -> list[tuple[str, Nodes]]:
    if not clusters:
        return [("default", trace.nodes)]
    return [
        (Path(c).stem if "/" in c or "." in c else c, load_nodes(c)) if isinstance(c, str) else (f"cluster {i + 1}", c)
        for i, c in enumerate(clusters)
    ]
