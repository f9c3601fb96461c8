"""What a replay says: summary, placements, timeline and events, as values and as files."""

import hashlib
import json
import math
import os
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpve import __version__
from gpve.model.errors import InputError
from gpve.model.reasons import Reason
from gpve.scheduler.fragmentation import CLASSES
from gpve_sim.driver import Replayed
from gpve_sim.kernel import tables as t
from gpve_sim.usage import usage_at

Summary = dict[str, Any]

_QUANTITIES: dict[str, int] = {
    "cpu_milli": t.CPU,
    "memory_mib": t.MEM,
    "gpu_milli": t.GPU,
    "active_nodes": t.ACTIVE,
    "open_nodes": t.OPEN,
    "waiting": t.WAITING,
    "running": t.RUNNING,
    "fragmentation_milli": t.FRAGMENTATION,
    "power_w": t.POWER,
    "power_empty_w": t.POWER_EMPTY,
    **{f"frag_{name}_milli": t.FRAG + i for i, name in enumerate(CLASSES)},
    "stranded_cpu_milli": t.STRANDED,
    "stranded_memory_mib": t.STRANDED + 1,
    "stranded_gpu_milli": t.STRANDED + 2,
}
"""Columns of the timeline that are quantities, by their place."""
_GPU_ONLY = ("gpu_milli", "fragmentation_milli", "stranded_gpu_milli", *(f"frag_{c}_milli" for c in CLASSES))


def has_gpus(replayed: Replayed) -> bool:
    """Whether the cluster has any GPU."""
    return replayed.state.free_gpu.shape[1] > 0


def capacity(replayed: Replayed) -> dict[str, int]:
    """What all nodes together have: CPU and memory after overcommit, GPU in thousandths."""
    nodes = replayed.state.nodes
    return {
        "cpu_milli": int(nodes["cpu"].sum()),
        "memory_mib": int(nodes["mem"].sum()),
        "gpu_milli": int(nodes["gpu_count"].sum()) * 1000,
    }


def timeline(replayed: Replayed) -> pa.Table:
    """The state over time: one row per sample; see docs/reference/output.md for the columns."""
    rows = replayed.run.timeline[: replayed.run.at[t.A_ROWS]]
    columns: dict[str, Any] = {
        "time_s": rows[:, t.T_TIME],
        "arrived": rows[:, t.T_ARRIVED].astype(np.int64),
        "arrived_gpu_milli": rows[:, t.T_ARRIVED_GPU].astype(np.int64),
        "placed": rows[:, t.T_PLACED].astype(np.int64),
        "failed": rows[:, t.T_FAILED].astype(np.int64),
    }
    for name, place in _QUANTITIES.items():
        if name in _GPU_ONLY and not has_gpus(replayed):
            continue
        columns[name] = rows[:, t.T_QUANTITIES + place]
    columns["empty_nodes"] = columns["open_nodes"] - columns["active_nodes"]
    if replayed.trace.usage is not None:
        used = usage_at(replayed, rows[:, t.T_TIME])
        columns["used_cpu_milli"], columns["used_memory_mib"] = used.cpu_milli, used.memory_mib
    for reason in Reason:
        if reason is not Reason.FITS:
            name = f"failed_{reason.name.lower()}"
            columns[name] = rows[:, t.T_REASONS + reason].astype(np.int64)
    return pa.table(columns)


def events(replayed: Replayed) -> pa.Table:
    """Everything beyond first placements on arrival: queued, started, moved, evicted, failed with its reason, ..."""
    log = replayed.run.log[: replayed.run.at[t.A_LOG]]
    guest = log[:, 1].astype(np.int64)
    node = log[:, 2].astype(np.int64)
    names = pa.array(replayed.nodes.names, pa.string())
    known = pa.array(np.where(node >= 0, node, 0), mask=node < 0)
    reasons = pa.array([reason.name.lower() for reason in Reason])
    reason = log[:, 4].astype(np.int64)
    return pa.table(
        {
            "time_s": log[:, 0],
            "guest": replayed.guests.ids.take(pa.array(guest)),
            "event": pa.array(t.EVENT_NAMES).take(pa.array(log[:, 3].astype(np.int64))),
            "node": names.take(known),
            "reason": reasons.take(pa.array(reason, mask=reason == 0)),
        }
    )


def arrival_order(replayed: Replayed) -> np.ndarray:
    """(G,) rows of the guests in order of arrival."""
    order = replayed.load.order
    return order if len(order) else np.arange(len(replayed.guests), dtype=np.int32)


def device_text(bits: int) -> str:
    """Devices of a guest as they stand in placements.csv: ``0|3``."""
    return "|".join(str(d) for d in range(bits.bit_length()) if bits >> d & 1)


def placements(replayed: Replayed, first: int = 0, rows: int | None = None) -> pa.Table:
    """guest, node (null: not placed) and devices, in order of arrival; ``rows`` of them from ``first`` on."""
    order = arrival_order(replayed)[first : None if rows is None else first + rows]
    node = replayed.run.node[order]
    names = pa.array(replayed.nodes.names, pa.string()) if len(replayed.nodes) else pa.nulls(1, pa.string())
    in_place = not len(replayed.load.order)
    ids = replayed.guests.ids
    guests = ids.slice(first, len(order)) if in_place else ids.take(pa.array(order))
    where = names.take(pa.array(node, mask=node < 0))
    if has_gpus(replayed):
        encoded = pc.dictionary_encode(pa.array(replayed.run.devices[order]))
        texts = pa.array([device_text(int(bits.as_py())) for bits in encoded.dictionary], pa.string())
        devices = texts.take(encoded.indices)
    else:
        devices = pa.array([""]).take(pa.array(np.zeros(len(order), dtype=np.int8)))
    return pa.table({"guest": guests, "node": where, "devices": devices})


def _times(replayed: Replayed) -> float:
    run = replayed.run
    first = float(replayed.load.arrival.min()) if len(replayed.load.arrival) else 0.0
    return float(run.clock[0]) - first


def _mean(replayed: Replayed, place: int) -> float | None:
    span = _times(replayed)
    return float(replayed.run.integral[place]) / span if span > 0 else None


def summary(replayed: Replayed) -> Summary:
    """The replay in one dictionary: what summary.json holds."""
    run = replayed.run
    arrivals = int(run.at[t.A_ARRIVAL])
    placed = int(run.at[t.A_PLACED])
    failed = int(run.at[t.A_FAILED])
    gpus = has_gpus(replayed)
    out: Summary = {
        "trace": replayed.trace.name,
        "policy": replayed.policy.name,
        "queue": replayed.settings.queue,
        "seed": replayed.settings.seed,
        "nodes": len(replayed.nodes),
        "capacity": capacity(replayed),
        "arrivals": arrivals,
        "placed": placed,
        "failed": failed,
        "waiting": arrivals - placed - failed,
        "failed_by_reason": {
            reason.name.lower(): int(run.reasons[reason]) for reason in Reason if run.reasons[reason] > 0
        },
        "migrated": int(run.at[t.A_MIGRATED]),
        "lost": int(run.at[t.A_LOST]),
        "span_s": _times(replayed),
        "replay_s": round(replayed.replay_s, 6),
        "placements_per_s": round(placed / replayed.replay_s) if replayed.replay_s > 0 else None,
        "scores_computed": replayed.scored,
        "typical_requests": {"count": len(replayed.typical), "covered": round(replayed.typical.covered, 6)},
        "energy_kwh": float(run.integral[t.POWER]) / 3.6e6,
        "energy_kwh_empty_nodes_off": float(run.integral[t.POWER] - run.integral[t.POWER_EMPTY]) / 3.6e6,
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    for key, place, gpu_only in (
        ("used_cpu_milli", t.CPU, False),
        ("used_memory_mib", t.MEM, False),
        ("used_gpu_milli", t.GPU, True),
        ("fragmentation_milli", t.FRAGMENTATION, True),
        ("stranded_cpu_milli", t.STRANDED, False),
        ("stranded_memory_mib", t.STRANDED + 1, False),
        ("stranded_gpu_milli", t.STRANDED + 2, True),
        ("active_nodes", t.ACTIVE, False),
        ("queue_length", t.WAITING, False),
    ):
        if gpu_only and not gpus:
            out[key] = out[f"{key}_peak"] = out[f"{key}_mean"] = None
            continue
        mean = _mean(replayed, place)
        out[key] = round(float(run.now[place]))
        out[f"{key}_peak"] = round(float(run.peak[place]))
        out[f"{key}_mean"] = None if mean is None else round(mean, 3)
    out["wait_s"] = _waits(replayed)
    if replayed.or_tools is not None:
        out["or_tools"] = replayed.or_tools
    return out


def _waits(replayed: Replayed) -> dict[str, float] | None:
    """Seconds from arrival to start, of all that started; None if nothing could wait (in batches all do)."""
    start = replayed.run.start
    if replayed.settings.queue == "drop" and replayed.or_tools is None:
        return None
    waited = (start - replayed.load.arrival)[~np.isnan(start)]
    if not len(waited):
        return None
    p50, p99 = np.quantile(waited, [0.5, 0.99])
    return {"mean": float(waited.mean()), "p50": float(p50), "p99": float(p99), "max": float(waited.max())}


def manifest(replayed: Replayed, arguments: dict[str, Any]) -> dict[str, Any]:
    """run.json: all that another needs to repeat the run."""
    return {
        "gpve": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "platform": f"{sys.platform}-{platform.machine()}",
        "trace": replayed.trace.name,
        "arguments": arguments,
        "inputs_sha256": dict(replayed.trace.sources),
        "notes": list(replayed.trace.notes),
        "policy": replayed.policy.name,
        "placements_sha256": digest(replayed),
    }


def digest(replayed: Replayed) -> str:
    """SHA-256 of the placements: lines ``guest node`` in order of arrival, ``-`` for none (as fgd.md has it)."""
    order = arrival_order(replayed)
    names = [*replayed.nodes.names, "-"]
    hasher = hashlib.sha256()
    for first in range(0, len(order), 65536):
        rows = order[first : first + 65536]
        ids = replayed.guests.ids.take(pa.array(rows)).to_pylist()
        lines = (f"{i} {names[n]}\n" for i, n in zip(ids, replayed.run.node[rows].tolist(), strict=True))
        hasher.update("".join(lines).encode())
    return hasher.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write one file under a temporary name in the same directory, then rename it."""
    write_together(path.parent, {path.name: write})


def output_directory(path: Path) -> Path:
    """Make the directory if need be, and make sure that it can be written to; `InputError` if not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".gpve-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to this directory: {error.strerror}", file=path) from None
    return path


PIECE = 1 << 18
"""Rows of placements.csv that are made at once."""

Files = dict[str, Callable[[Path], object]]
"""Name of a file -> what writes it to a path."""


def write_together(directory: Path, files: Files) -> None:
    """Write all under temporary names, then rename all: a reader finds the files of one run, or none."""
    temporary = {name: directory / f".{name}.{os.getpid()}.tmp" for name in files}
    try:
        for name, write in files.items():
            write(temporary[name])
        for name, path in temporary.items():
            path.replace(directory / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def files_of(replayed: Replayed, arguments: dict[str, Any]) -> Files:
    """placements.csv, summary.json, run.json, timeline.parquet and events.parquet of a run."""
    import pyarrow.parquet

    return {
        "placements.csv": lambda path: _write_placements(replayed, path),
        "timeline.parquet": lambda path: pyarrow.parquet.write_table(timeline(replayed), path),
        "events.parquet": lambda path: pyarrow.parquet.write_table(events(replayed), path),
        "run.json": lambda path: _write_json(path, manifest(replayed, arguments)),
        "summary.json": lambda path: _write_json(path, summary(replayed)),
    }


def _write_placements(replayed: Replayed, path: Path) -> None:
    """Piece by piece: five million names at once would cost more memory than the replay did."""
    import pyarrow.csv

    # Names seldom hold a comma or a quote; "needed" would quote them all.
    names = (replayed.guests.ids, pa.array(replayed.nodes.names, pa.string()))
    special = any(pc.any(pc.match_substring_regex(column, '[,"\r\n]')).as_py() for column in names)
    options = pyarrow.csv.WriteOptions(quoting_style="needed" if special else "none", quoting_header="none")
    with pyarrow.csv.CSVWriter(path, placements(replayed, 0, 0).schema, write_options=options) as writer:
        for first in range(0, len(replayed.guests), PIECE):
            writer.write_table(placements(replayed, first, PIECE))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    def plain(x: Any) -> Any:
        if isinstance(x, float) and not math.isfinite(x):
            return None
        raise TypeError(f"{x!r} in {path.name}")

    path.write_text(json.dumps(value, indent=2, default=plain, allow_nan=False) + "\n")
