"""Guests, nodes and usage as files of the project's schema: CSV (gzip by ``.gz``) or Parquet, by the suffix.

What is written is read back the same. A file appears under its name when it is complete.
"""

import gzip
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpve.model import FOREVER, KINDS, Guests, InputError, Nodes, Usage
from gpve_sim.readers.lists import text_of, text_of_labels
from gpve_sim.readers.table import Codes, Floats
from gpve_sim.trace import Trace

SUFFIXES = (".csv", ".csv.gz", ".parquet")


def write_guests(guests: Guests, path: Path) -> None:
    """Write the columns that are there; `FOREVER` is empty. Raises `InputError`."""
    columns = {
        "id": guests.ids,
        "kind": _texts(guests.kind.astype(np.int32), KINDS),
        "arrival_s": pa.array(guests.arrival_s),
        "departure_s": _times(guests.departure_s),
        "cpu_milli": pa.array(guests.cpu_milli),
        "memory_mib": pa.array(guests.memory_mib),
    }
    for name in ("gpu_count", "gpu_milli", "max_per_node", "priority"):
        if (values := getattr(guests, name)) is not None:
            columns[name] = pa.array(values)
    if guests.deadline_s is not None:
        columns["deadline_s"] = _times(guests.deadline_s)
    groups = guests.group_names
    for name, codes, texts in (
        ("gpu_models", guests.gpu_models, lambda: [_listed(s) for s in guests.gpu_model_sets]),
        ("group", guests.group, lambda: groups),
        (
            "anti_affinity",
            guests.anti_affinity,
            lambda: [text_of(groups[i] for i in s) for s in guests.anti_affinity_sets],
        ),
        ("selector", guests.selector, lambda: [text_of_labels(s) for s in guests.selectors]),
        ("tolerations", guests.tolerations, lambda: [text_of(s) for s in guests.toleration_sets]),
    ):
        if codes is not None:
            columns[name] = _texts(codes, _spelt(texts, path, name))
    _write(columns, path)


def write_nodes(nodes: Nodes, path: Path) -> None:
    """Write the columns that are there. Raises `InputError`."""
    columns = {
        "name": pa.array(nodes.names, pa.string()),
        "cpu_milli": pa.array(nodes.cpu_milli),
        "memory_mib": pa.array(nodes.memory_mib),
    }
    if nodes.gpu_count.any():
        columns["gpu_count"] = pa.array(nodes.gpu_count)
        columns["gpu_model"] = _texts(nodes.gpu_model, nodes.gpu_model_names)
    if (labels := nodes.labels) is not None:
        columns["labels"] = _strings(_spelt(lambda: [text_of_labels(x.items()) for x in labels], path, "labels"))
    if (taints := nodes.taints) is not None:
        columns["taints"] = _strings(_spelt(lambda: [text_of(x) for x in taints], path, "taints"))
    if nodes.cpu_overcommit is not None or nodes.memory_overcommit is not None:
        ones = np.ones(len(nodes))
        cpu = ones if nodes.cpu_overcommit is None else nodes.cpu_overcommit
        memory = ones if nodes.memory_overcommit is None else nodes.memory_overcommit
        pairs = zip(cpu.tolist(), memory.tolist(), strict=True)
        columns["overcommit"] = _strings([f"cpu={c!r}|memory={m!r}" for c, m in pairs])
    if nodes.power is not None:
        columns["power"] = _texts(nodes.power, ["|".join(map(repr, c.watts)) for c in nodes.power_curves])
    if nodes.add_s is not None:
        columns["add_s"] = pa.array(nodes.add_s)
    if nodes.drain_s is not None:
        columns["drain_s"] = _times(nodes.drain_s)
    _write(columns, path)


def write_usage(usage: Usage, guests: Guests, path: Path) -> None:
    """Write usage with the names of its guests. Raises `InputError`."""
    columns = {
        "id": guests.ids.take(pa.array(usage.guest)),
        "start_s": pa.array(usage.start_s),
        "end_s": pa.array(usage.end_s),
        "cpu_milli": pa.array(usage.cpu_milli),
        "memory_mib": pa.array(usage.memory_mib),
    }
    if usage.phase is not None:
        columns["phase"] = _texts(usage.phase, usage.phase_names)
    _write(columns, path)


def write_trace(trace: Trace, path: Path) -> list[Path]:
    """Write the guests to ``path``, nodes and usage beside it; the paths written. Raises `InputError`.

    A trace without departures is written as guests that never depart. Usage of an older trace under the same name
    is removed, so that nothing is read that does not belong to the guests.
    """
    suffix = next((s for s in SUFFIXES[::-1] if path.name.endswith(s)), None)
    if suffix is None:
        raise InputError(f"the suffix must be one of {', '.join(SUFFIXES)}", path)
    stem = path.name.removesuffix(suffix)
    nodes_path, usage_path = (path.with_name(f"{stem}.{what}{suffix}") for what in ("nodes", "usage"))
    write_nodes(trace.nodes, nodes_path)
    written = [path, nodes_path]
    if trace.usage is not None:
        write_usage(trace.usage, trace.guests, usage_path)
        written.append(usage_path)
    else:
        usage_path.unlink(missing_ok=True)
    guests = trace.guests
    if not trace.departures:
        guests = replace(guests, departure_s=np.full(len(guests), FOREVER))
    write_guests(guests, path)
    return written


def complete(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, and give it the name when it is done. Raises `InputError`."""
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", path) from None
    finally:
        # Where even this fails, the folder was never there.
        with suppress(OSError):
            part.unlink()


def _write(columns: dict[str, pa.Array], path: Path) -> None:
    table = pa.table(columns)
    if path.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        complete(path, lambda part: pq.write_table(table, part, compression="zstd"))
    elif path.name.endswith((".csv", ".csv.gz")):
        data = _csv(table)
        # No time stamp in the gzip header: the same table gives the same bytes.
        packed = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
        complete(path, lambda part: _put(part, packed))
    else:
        raise InputError(f"the suffix must be one of {', '.join(SUFFIXES)}", path)


def _put(part: Path, data: bytes) -> None:
    part.write_bytes(data)


def _csv(table: pa.Table) -> bytes:
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    sink.write((",".join(table.column_names) + "\n").encode())
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    csv.write_csv(table.unify_dictionaries(), sink, options)
    return sink.getvalue().to_pybytes()


def _spelt(texts: Callable[[], Iterable[str]], path: Path, column: str) -> list[str]:
    try:
        return list(texts())
    except ValueError as error:
        raise InputError(str(error), path, None, column) from None


def _groups(indices: Iterable[int], names: tuple[str, ...]) -> str:
    return text_of(names[i] for i in indices)


def _listed(items: Iterable[str]) -> str:
    """Items in their own order, which means something for GPU models."""
    items = list(items)
    text_of(items)
    return "|".join(items)


def _texts(codes: Codes, texts: Iterable[str]) -> pa.Array:
    """Text of each code as a dictionary of few texts; -1 is empty."""
    values = pa.array(list(texts), pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), values)


def _strings(texts: list[str]) -> pa.Array:
    return pa.array([text or None for text in texts], pa.string())


def _times(seconds: Floats) -> pa.Array:
    array = pa.array(seconds)
    return pc.if_else(pc.equal(array, FOREVER), pa.scalar(None, pa.float64()), array)
