"""AI agents, combined by us from three data sets, because no public trace has arrivals, phases and sizes together.

- Arrivals: requests to an LLM service, azure-llm-2023 (Patel et al., Splitwise, ISCA 2024) or mooncake (FAST 2025).
  Each request starts one agent.
- Phases: sessions of coding agents, weka-agent-sessions (kv-cache-tester). An agent lives as long as its session. It
  is `active` while the model answers or a tool runs, and `idle` in a pause of more than `IDLE_S` between the end of
  one answer and the next request: tools rarely take that long, people do. A missing ``api_time`` counts as 0.
- Sizes and load: measured runs of coding agents in containers, agentcgroup (arXiv 2602.09345), those that were
  sampled for at least `SAMPLED_S`. ``cpu_percent`` is the mean since the container started, so the CPU seconds up to
  a sample are percent/100 x elapsed, and the load is the difference; the container is taken to have started one
  second before its first sample, and CPU seconds that seem to fall (rounding) stand still. The run's load in
  `SEGMENTS` equal parts is stretched over the active time of the session; an idle agent uses no CPU and keeps the
  memory that it had. It asks for the peak of the measured load over 5 s rounded up to 250 milli-cores, and the peak
  of its memory rounded up to 64 MiB.

Which session and which run an agent gets is drawn by the seed, from the streams "agents sessions" and "agents runs".

Default cluster: nodes of 64 cores and 256 GiB, as many as make the peak demand 80 % of the cluster.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpve.model import Guests, InputError, Kind, Nodes, Usage
from gpve_sim.cluster_size import numbered_ids, sized_cluster
from gpve_sim.readers.content import content, decoded, sha256, sha256_of_file
from gpve_sim.streams import stream
from gpve_sim.trace import Trace

NAME = "agents"
SUMMARY = "AI agents from agentcgroup, weka-agent-sessions and the arrivals of an LLM service: the folder of traces"

IDLE_S = 60.0
SAMPLED_S = 15.0
SEGMENTS = 8
PEAK_OVER_S = 5.0
CPU_STEP, MEMORY_STEP = 250, 64
PHASES = ("active", "idle")
ARRIVALS = {
    "azure-llm": "azure-llm-2023/AzureLLMInferenceTrace_code.csv",
    "mooncake": "mooncake/synthetic_trace.jsonl",
}
_UNITS = {"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """What one measured agent used: sizes to ask for, and its load in `SEGMENTS` equal parts of its life."""

    cpu_milli: int
    memory_mib: int
    cpu: NDArray[np.int64]
    memory: NDArray[np.int64]


@dataclass(frozen=True)
class Session:
    """The phases of one session, in seconds from its start."""

    start_s: Floats
    end_s: Floats
    idle: NDArray[np.bool_]


def recognises(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether this is a folder with the data sets in it."""
    return (path / "agentcgroup").is_dir() and (path / "weka-agent-sessions").is_dir()


def read(path: Path, *, seed: int = 0, nodes: Nodes | None = None, arrivals: str = "azure-llm") -> Trace:
    """One agent for each arrival; ``path`` is the folder that holds the data sets."""
    if arrivals not in ARRIVALS:
        raise InputError(f"unknown arrivals {arrivals!r}; known: {', '.join(ARRIVALS)}")
    sources: dict[str, str] = {}
    begins = _arrivals(path, arrivals, sources)
    sessions = [_session(name, data) for name, data in _members(path / "weka-agent-sessions", sources)]
    measured = (_run(name, data) for name, data in _members(path / "agentcgroup", sources))
    runs = [run for run in measured if run is not None]
    for what, found in (("sessions", sessions), ("runs", runs)):
        if not found:
            raise InputError(f"has no {what} of agents", path)
    count = len(begins)
    of_session = stream(seed, "agents sessions").integers(0, len(sessions), count)
    of_run = stream(seed, "agents runs").integers(0, len(runs), count)
    life = np.array([session.end_s[-1] for session in sessions])
    cpu = np.array([run.cpu_milli for run in runs], dtype=np.int64)
    memory = np.array([run.memory_mib for run in runs], dtype=np.int64)
    guests = Guests(
        numbered_ids("agent", count),
        np.full(count, Kind.AGENT, dtype=np.uint8),
        begins,
        begins + life[of_session],
        cpu[of_run],
        memory[of_run],
    )
    usage = _usage(begins, of_session, of_run, sessions, runs)
    notes: tuple[str, ...] = (
        f"The combination is ours: arrivals of {arrivals}, phases of {len(sessions)} weka sessions, sizes and load of "
        f"{len(runs)} agentcgroup runs, drawn for each agent (seed {seed}).",
        f"A pause of more than {IDLE_S:g} s between model calls is idle; an idle agent keeps its memory.",
    )
    if nodes is None:
        nodes, note = sized_cluster(guests)
        notes += (note,)
    return Trace(str(path), guests, nodes, usage, True, sources, notes)


def _usage(
    begins: Floats,
    of_session: NDArray[np.int64],
    of_run: NDArray[np.int64],
    sessions: list[Session],
    runs: list[Run],
) -> Usage:
    """Rows of all agents: cut once for each pair of session and run, then shifted to each arrival."""
    pair = of_session * len(runs) + of_run
    pairs, place = np.unique(pair, return_inverse=True)
    cuts = [_cut(sessions[p // len(runs)], runs[p % len(runs)]) for p in pairs.tolist()]
    sizes = np.array([len(cut[0]) for cut in cuts])
    first = np.cumsum(sizes) - sizes
    rows = sizes[place]
    guest = np.repeat(np.arange(len(begins), dtype=np.int32), rows)
    within = np.arange(int(rows.sum())) - np.repeat(np.cumsum(rows) - rows, rows)
    at = np.repeat(first[place], rows) + within
    start, end, cpu, memory, phase = (np.concatenate([cut[i] for cut in cuts])[at] for i in range(5))
    start, end = begins[guest] + start, begins[guest] + end
    order = np.argsort(start, kind="stable")
    return Usage(
        guest[order], start[order], end[order],
        cpu[order].astype(np.int64), memory[order].astype(np.int64), phase[order].astype(np.int32), PHASES,
    )  # fmt: skip


def _cut(session: Session, run: Run) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Rows (start, end, cpu, memory, phase) of one session under the load of one run."""
    active = np.where(session.idle, 0.0, session.end_s - session.start_s)
    done = np.cumsum(active)
    total = done[-1]
    # Where the active time passes from one segment of the run to the next, in seconds of the session.
    marks = total * np.arange(1, SEGMENTS) / SEGMENTS
    phase = np.minimum(np.searchsorted(done, marks, side="left"), len(done) - 1)
    crossings = session.end_s[phase] - (done[phase] - marks)
    edges = np.unique(np.concatenate([session.start_s, session.end_s, crossings]))
    start, end = edges[:-1], edges[1:]
    middle = (start + end) / 2
    of_phase = np.searchsorted(session.start_s, middle, side="right") - 1
    spent = done[of_phase] - np.where(session.idle[of_phase], 0.0, session.end_s[of_phase] - middle)
    segment = np.minimum((spent / total * SEGMENTS).astype(np.int64) if total > 0 else 0, SEGMENTS - 1)
    idle = session.idle[of_phase]
    cpu = np.where(idle, 0, run.cpu[segment])
    return start, end, cpu.astype(np.float64), run.memory[segment].astype(np.float64), idle.astype(np.float64)


def _session(name: str, data: bytes) -> Session:
    requests = _object(name, data, "requests")
    times: list[tuple[float, float]] = []
    for request in requests:
        if request.get("type") == "subagent":
            lasts = float(request.get("duration_ms") or 0) / 1000
        else:
            lasts = float(request.get("api_time") or 0)
        times.append((float(request["t"]), float(request["t"]) + lasts))
    times.sort()
    edges = [0.0]
    idle: list[bool] = []
    until = 0.0
    for start, end in times:
        if start - until > IDLE_S:
            for edge, is_idle in ((until, False), (start, True)):
                if edge > edges[-1]:
                    edges.append(edge)
                    idle.append(is_idle)
        until = max(until, end)
    # A session of no length is given a second: an agent that started has run.
    edges.append(until if until > edges[-1] else edges[-1] + 1.0)
    idle.append(False)
    bounds = np.array(edges)
    return Session(bounds[:-1], bounds[1:], np.array(idle))


def _run(name: str, data: bytes) -> Run | None:
    """What a run used; None if it was sampled for too short a time to say."""
    samples = _object(name, data, "samples")
    if len(samples) < 2:
        return None
    epoch = np.array([float(sample["epoch"]) for sample in samples])
    if epoch[-1] - epoch[0] < SAMPLED_S:
        return None
    percent = np.array([float(str(sample["cpu_percent"]).rstrip("%")) for sample in samples])
    mib = np.array([_bytes(name, str(sample["mem_usage"])) for sample in samples]) / 2**20
    elapsed = epoch - epoch[0] + 1.0
    seconds = np.concatenate([[0.0], np.maximum.accumulate(percent / 100 * elapsed)])
    clock = np.concatenate([[0.0], elapsed])
    points = np.linspace(0.0, clock[-1], SEGMENTS + 1)
    cpu = np.diff(np.interp(points, clock, seconds)) / np.diff(points) * 1000
    steps = np.arange(0.0, clock[-1] - PEAK_OVER_S, 1.0)
    loads = (np.interp(steps + PEAK_OVER_S, clock, seconds) - np.interp(steps, clock, seconds)) / PEAK_OVER_S
    parts = np.minimum((elapsed / elapsed[-1] * SEGMENTS).astype(np.int64), SEGMENTS - 1)
    memory = np.zeros(SEGMENTS)
    np.maximum.at(memory, parts, mib)
    peak_cpu = max(float(loads.max()) * 1000, float(cpu.max()))
    return Run(
        _up(peak_cpu, CPU_STEP), _up(float(mib.max()), MEMORY_STEP), np.rint(cpu).astype(np.int64),
        np.rint(memory).astype(np.int64),
    )  # fmt: skip


def _up(value: float, step: int) -> int:
    return max(1, int(np.ceil(value / step))) * step


def _bytes(name: str, text: str) -> float:
    """``11.85MB / 134.5GB``: the first number, in bytes; the second is the host."""
    found = re.match(r"([\d.]+)([A-Za-z]+) /", text)
    if not found or found.group(2) not in _UNITS:
        raise InputError(f"{text!r} is not an amount of memory", name, None, "mem_usage")
    return float(found.group(1)) * _UNITS[found.group(2)]


def _object(name: str, data: bytes, key: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(decoded(data, Path(name)))
        return list(found[key])
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", name, error.lineno) from None
    except (KeyError, TypeError):
        raise InputError("the key is missing", name, None, key) from None


def _members(folder: Path, sources: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The JSON files of a data set by path, out of its bundle or as single files."""
    bundles = sorted(folder.glob("*.tar.gz"))
    for bundle in bundles:
        sources[bundle.name] = sha256_of_file(bundle)
        try:
            with tarfile.open(bundle) as tar:
                for member in sorted(tar.getmembers(), key=lambda m: m.name):
                    file = tar.extractfile(member)
                    if file is not None and member.name.endswith(".json"):
                        yield f"{bundle}!{member.name}", file.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"not a whole tar bundle: {error}", bundle) from None
    if not bundles:
        for path in sorted(folder.rglob("*.json"), key=lambda p: p.relative_to(folder).as_posix()):
            data = content(path)
            sources[str(path.relative_to(folder))] = sha256(data)
            yield str(path), data


def _arrivals(folder: Path, arrivals: str, sources: dict[str, str]) -> Floats:
    """Seconds from the first request."""
    path = folder / ARRIVALS[arrivals]
    if not path.exists():
        path = path.with_name(path.name + ".gz")
    data = content(path)
    sources[path.name] = sha256(data)
    lines = decoded(data, path).splitlines()
    times: list[float] = []
    if arrivals == "mooncake":
        for number, line in enumerate(lines, 1):
            try:
                times.append(float(json.loads(line)["timestamp"]) / 1000)
            except (ValueError, KeyError, TypeError):
                raise InputError("not a JSON object with a timestamp", path, number, "timestamp") from None
    else:
        for number, line in enumerate(lines[1:], 2):
            stamp = line.split(",")[0].replace(" ", "T")
            try:
                times.append(np.datetime64(stamp, "ns").astype(np.int64) / 1e9)
            except ValueError:
                raise InputError(f"{stamp!r} is not a time", path, number, "TIMESTAMP") from None
    if not times:
        raise InputError("has no rows: a trace needs guests", path)
    begins = np.sort(np.array(times))
    # Nanoseconds of the source have seven decimals; a float of seconds since 1970 keeps six.
    return np.round(begins - begins[0], 6)
