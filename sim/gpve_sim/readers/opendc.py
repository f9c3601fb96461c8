"""OpenDC's Parquet traces: tasks with fragments of load (here opendc-surf-week, HPC jobs of a Dutch
system).

A task is a guest of kind `vm` that arrives at ``submission_time`` (counted from the earliest) and departs
after ``duration``. ``mem_capacity`` has no stated unit and is taken as MB. Each fragment is a row of usage:
``cpu_usage`` in MHz over ``cpu_capacity`` (of all cores together) of its cores; neighbours with the same
load are one row; memory used is not in the trace and counts as all that was asked.

Default cluster: nodes of as many cores as the largest task has (16 here) with 128 GiB, as many as make the
peak demand 80 % of the cluster.
"""

import math
from pathlib import Path

import numpy as np

from gpve.model import Guests, Kind, Nodes, Usage
from gpve_sim.cluster_size import FILL, identical_nodes, peak
from gpve_sim.readers.table import ParquetTable, Table
from gpve_sim.trace import Trace

NAME = "opendc"
SUMMARY = "OpenDC: the folder of tasks.parquet and fragments.parquet"

TASKS = ("id", "submission_time", "duration", "cpu_count", "cpu_capacity", "mem_capacity")
FRAGMENTS = ("id", "duration", "cpu_usage")
NODE_MEMORY_MIB = 128 * 1024


def recognises(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether this is tasks.parquet or its folder."""
    return (path / "tasks.parquet").exists() or {"submission_time", "cpu_capacity"} <= set(columns)


def read(path: Path, *, seed: int = 0, nodes: Nodes | None = None) -> Trace:
    """The tasks in file order with their fragments, where they lie beside; ``seed`` is not used."""
    tasks_path = path / "tasks.parquet" if path.is_dir() else path
    tasks = ParquetTable(tasks_path)
    tasks.expect(TASKS)
    tasks.some_rows("a trace needs guests")
    ids = tasks.unique("id")
    submitted = tasks.floats("submission_time")
    arrival = (submitted - submitted.min()) / 1000
    cores = tasks.ints("cpu_count", low=1)
    guests = Guests(
        ids,
        np.full(tasks.rows, Kind.VM, dtype=np.uint8),
        arrival,
        arrival + tasks.floats("duration") / 1000,
        cores * 1000,
        np.ceil(tasks.floats("mem_capacity") * 1e6 / 2**20).astype(np.int64),
    )
    sources = {tasks_path.name: tasks.sha256}
    notes: tuple[str, ...] = ("Memory has no unit in the trace and is taken as MB.",)
    usage = None
    fragments_path = tasks_path.with_name("fragments.parquet")
    if fragments_path.exists():
        fragments = ParquetTable(fragments_path)
        usage = _usage(tasks, fragments, guests)
        sources[fragments_path.name] = fragments.sha256
        notes += ("The trace has no memory use: what was asked counts as used.",)
    if nodes is None:
        node_cores = int(cores.max())
        memory = max(NODE_MEMORY_MIB, int(guests.memory_mib.max()))
        demand = max(peak(guests, guests.cpu_milli) / (node_cores * 1000), peak(guests, guests.memory_mib) / memory)
        nodes = identical_nodes(math.ceil(demand / FILL), node_cores * 1000, memory)
        notes += (
            f"Default cluster: {len(nodes)} nodes of {node_cores} cores and {memory / 1024:g} GiB, so that the "
            f"peak demand is {FILL:.0%} of it (an assumption: the trace has no nodes).",
        )
    return Trace(str(path), guests, nodes, usage, True, sources, notes)


def _usage(tasks: Table, fragments: Table, guests: Guests) -> Usage:
    """Fragments in order within a task, one after the other from its arrival."""
    fragments.expect(FRAGMENTS)
    of_task = tasks.ints("id", low=-(2**31))
    order = np.argsort(of_task, kind="stable")
    ids = fragments.ints("id", low=-(2**31))
    place = np.minimum(np.searchsorted(of_task, ids, sorter=order), len(order) - 1)
    guest = order[place].astype(np.int32)
    fragments.refuse(of_task[guest] != ids, "id", lambda row: f"no task has the id {ids[row]}")
    duration = fragments.floats("duration") / 1000
    load = fragments.floats("cpu_usage")
    capacity = tasks.floats("cpu_capacity")
    tasks.refuse(capacity <= 0, "cpu_capacity", lambda row: "a task needs a capacity above 0")
    # A load above the capacity is a rounding of the trace's clock rates.
    cpu = np.rint(np.minimum(load / capacity[guest], 1.0) * guests.cpu_milli[guest]).astype(np.int64)
    by_guest = np.argsort(guest, kind="stable")
    guest, duration, cpu = guest[by_guest], duration[by_guest], cpu[by_guest]
    first = np.concatenate([[True], guest[1:] != guest[:-1]])
    end = np.cumsum(duration)
    offset = np.repeat((end - duration)[first], np.diff(np.append(np.flatnonzero(first), len(guest))))
    # Runs of one load of one guest become one row.
    heads = np.flatnonzero(first | np.concatenate([[True], cpu[1:] != cpu[:-1]]))
    tails = np.append(heads[1:], len(guest)) - 1
    arrival = guests.arrival_s[guest[heads]]
    start = arrival + (end - duration - offset)[heads]
    stop = arrival + (end - offset)[tails]
    rank = np.argsort(start, kind="stable")
    rows = guest[heads][rank]
    return Usage(rows, start[rank], stop[rank], cpu[heads][rank], guests.memory_mib[rows])
