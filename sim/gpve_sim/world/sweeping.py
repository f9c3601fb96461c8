"""The whole sweep: every flow under every single fault and every two, on all cores, and resumable.

The plans of a flow are numbered, and cut into parts of `PART` worlds. A part is a pure function of its flow and its
numbers, and its result is one line of ``parts.jsonl``; so a sweep that was killed goes on where it stood, and gives
the same figures. A part of another table of steps, or of another list of plans, is not taken for this one.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from simpy import Environment

from gpve.model.errors import InputError
from gpve.scheduler.policy import load
from gpve.tasks.flows import FLOWS
from gpve.world.placement import SchedulerPlacer
from gpve_sim.cluster import on_dask
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Injection
from gpve_sim.world.sweep import Point, pairs, points_of, singles
from gpve_sim.world.trial import run_trial

PART = 500
"""Worlds in a part: a few seconds of work, which is all that a kill can cost."""
KEPT = 20
"""Findings of a part that are kept in full; the others are counted."""


@dataclass(frozen=True)
class Part:
    """Some plans of a flow. ``plans``: a digest of all its points, faults and steps."""

    flow: str
    kind: str
    """single or pair."""
    first: int
    count: int
    plans: str

    def key(self) -> str:
        """What tells it from every other."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass
class Figures:
    """What came of some worlds."""

    worlds: int = 0
    fired: int = 0
    """Worlds in which every fault of the plan was met; of two, the first may keep the second from its step."""
    done: int = 0
    undone: int = 0
    stuck: int = 0
    wrong: int = 0
    """Worlds in which something was found."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    """Flow, seed, faults, and what was found."""

    def add(self, other: "Figures") -> None:
        """Count the other's as well."""
        for name in ("worlds", "fired", "done", "undone", "stuck", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.findings += other.findings


def best_fit() -> SchedulerPlacer:
    """A scheduler of its own for every engine: it remembers the nodes that it has seen."""
    return SchedulerPlacer(load("best-fit"))


@lru_cache
def _points(flow: str) -> tuple[Point, ...]:
    return tuple(points_of(flow, best_fit))


def _plans(flow: str, kind: str) -> Iterator[tuple[Injection, ...]]:
    points = list(_points(flow))
    return singles(points) if kind == "single" else pairs(points)


def parts_of(flows: Iterable[str], per_part: int = PART) -> list[Part]:
    """All parts of the sweep of these flows, singles first. Raises `InputError` for a flow that is not there."""
    chosen = list(flows)
    for flow in chosen:
        if flow not in FLOWS.names:
            raise InputError(f"no flow {flow!r}; there are {', '.join(FLOWS.names)}")
    return [part for kind in ("single", "pair") for flow in chosen for part in _cut(flow, kind, per_part)]


def _cut(flow: str, kind: str, per_part: int) -> Iterator[Part]:
    newest = FLOWS.newest(flow)
    digest = hashlib.sha256(newest.table_hash.encode() if newest is not None else b"")
    total = 0
    for plan in _plans(flow, kind):
        digest.update(";".join(map(str, plan)).encode())
        total += 1
    for first in range(0, total, per_part):
        yield Part(flow, kind, first, min(per_part, total - first), digest.hexdigest()[:16])


def run_part(part: Part) -> Figures:
    """Run the worlds of a part. Those with one fault are audited after every transaction, the others at the end."""
    figures = Figures()
    plans = islice(_plans(part.flow, part.kind), part.first, part.first + part.count)
    for seed, plan in enumerate(plans, part.first):
        figures.add(_try(part.flow, seed, plan, audited=part.kind == "single"))
    figures.findings = figures.findings[:KEPT]
    return figures


def _try(flow: str, seed: int, plan: tuple[Injection, ...], audited: bool) -> Figures:
    worlds: list[World] = []

    def watched(env: Environment, *rest: Any) -> World:
        worlds.append(World(env, *rest))
        worlds[-1].audited = audited
        return worlds[-1]

    trial = run_trial(flow, plan, best_fit, seed, make_world=watched)
    found = [*worlds[0].findings[:3], *trial.findings]
    told = [{"flow": flow, "seed": seed, "faults": [str(i) for i in plan], "found": found}] if found else []
    return Figures(
        worlds=1,
        fired=int(set(trial.fired) == set(plan)),
        done=int(trial.status == "done"),
        undone=int(trial.status == "undone"),
        stuck=int(trial.status == "stuck"),
        wrong=int(bool(found)),
        findings=told,
    )


def sweep_faults(
    flows: Iterable[str],
    out: Path,
    workers: int | None = None,
    per_part: int = PART,
    progress: Callable[[int, int], None] = lambda done, total: None,
    dask: str | None = None,
) -> dict[str, Figures]:
    """Run what is missing of a sweep; the figures by flow, of this run and of those before it together.

    ``dask``: the address of a cluster to run on, instead of this machine's cores.
    """
    parts = parts_of(flows, per_part)
    out.mkdir(parents=True, exist_ok=True)
    finished = _read(out / "parts.jsonl")
    missing = [part for part in parts if part.key() not in finished]
    worlds = sum(part.count for part in parts)
    done = worlds - sum(part.count for part in missing)
    progress(done, worlds)
    with (out / "parts.jsonl").open("a") as file:
        work = [(part.key(), part, part) for part in missing]
        here = _run(missing, workers or os.cpu_count() or 1)
        for part, figures in here if dask is None else on_dask(dask, run_part, work):
            finished[part.key()] = figures
            file.write(json.dumps({"part": asdict(part), "figures": asdict(figures)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
            done += part.count
            progress(done, worlds)
    by_flow: dict[str, Figures] = {}
    for part in parts:
        by_flow.setdefault(part.flow, Figures()).add(finished[part.key()])
    return by_flow


def _run(parts: list[Part], workers: int) -> Iterator[tuple[Part, Figures]]:
    if workers == 1 or len(parts) < 2:
        yield from ((part, run_part(part)) for part in parts)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        asked = {pool.submit(run_part, part): part for part in parts}
        for answer in as_completed(asked):
            yield asked[answer], answer.result()


def _read(file: Path) -> dict[str, Figures]:
    """The finished parts. What a kill left of a last line is cut off."""
    if not file.exists():
        return {}
    whole, _, rest = file.read_bytes().rpartition(b"\n")
    if rest:
        os.truncate(file, len(whole) + 1 if whole else 0)
    found = {}
    for line in whole.splitlines():
        read = json.loads(line)
        found[Part(**read["part"]).key()] = Figures(**read["figures"])
    return found


def total(by_flow: dict[str, Figures]) -> Figures:
    """All flows together."""
    together = Figures()
    for figures in by_flow.values():
        together.add(figures)
    return together
