"""The project's own schema, as CSV (gzip or not) and Parquet: guests, and beside them usage and nodes.

``<stem>.csv`` holds guests; ``<stem>.usage.csv`` and ``<stem>.nodes.csv`` (or .parquet) are taken along
where they lie beside it. Without nodes the default cluster is as many nodes of `DEFAULT_NODE` as make the
peak demand of the trace `FILL` of the cluster; with GPUs, the same of `DEFAULT_GPU_NODE` for the guests
that ask for some.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpve.model import FOREVER, KINDS, Guests, Nodes, Usage
from gpve_sim.cluster_size import sized_cluster
from gpve_sim.readers.lists import items_of, labels_of
from gpve_sim.readers.nodes import read_nodes
from gpve_sim.readers.table import Codes, Floats, Table, open_table, returned_memory
from gpve_sim.trace import Trace

NAME = "schema"
SUMMARY = "the project's own schema, CSV or Parquet"

REQUIRED = ("id", "kind", "arrival_s", "departure_s", "cpu_milli", "memory_mib")
GPU = ("gpu_count", "gpu_milli", "gpu_models")
OPTIONAL = (
    *GPU, "group", "max_per_node", "anti_affinity", "selector", "tolerations", "priority", "deadline_s",
)  # fmt: skip
USAGE_REQUIRED = ("id", "start_s", "end_s", "cpu_milli", "memory_mib")
USAGE_OPTIONAL = ("phase",)
FEW = ("kind", "gpu_models", "group", "anti_affinity", "selector", "tolerations", "phase")
"""Columns of few distinct texts."""


def recognises(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether the columns are the project's: at least id, arrival_s and cpu_milli."""
    return {"id", "arrival_s", "cpu_milli"} <= set(columns)


@returned_memory()
def read(path: Path, *, seed: int = 0, nodes: Nodes | None = None) -> Trace:
    """Guests of ``path``, with the usage and the nodes beside it; ``seed`` is not used."""
    table = open_table(path, FEW)
    guests = guests_of(table)
    sources = {path.name: table.sha256}
    usage = None
    if (usage_path := beside(path, "usage")) is not None:
        usage_table = open_table(usage_path, ("phase",))
        usage = usage_of(usage_table, guests)
        sources[usage_path.name] = usage_table.sha256
    notes: tuple[str, ...] = ()
    if nodes is None and (nodes_path := beside(path, "nodes")) is not None:
        nodes = read_nodes(nodes_path)
    if nodes is None:
        nodes, note = sized_cluster(guests)
        notes = (note,)
    return Trace(str(path), guests, nodes, usage, True, sources, notes)


def beside(path: Path, what: str) -> Path | None:
    """The file ``<stem>.<what>.csv``, ``.csv.gz`` or ``.parquet`` beside ``path``, if there is one."""
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    for suffix in ("csv", "parquet", "csv.gz"):
        candidate = path.with_name(f"{stem}.{what}.{suffix}")
        if candidate.exists():
            return candidate
    return None


def guests_of(table: Table) -> Guests:
    """Check and convert a table of guests; see the module for its columns."""
    table.expect(REQUIRED, OPTIONAL)
    table.some_rows("a trace needs guests")
    ids = table.unique("id")
    kind = _kinds(table)
    arrival = table.floats("arrival_s")
    departure = table.floats("departure_s", empty=FOREVER)
    refuse_before(table, departure, "departure_s", arrival)
    has = set(table.names)
    gpu_count, gpu_milli, gpu_models, model_sets = _gpus(table, has)
    group, group_names = table.texts("group") if "group" in has else (None, ())
    limit = optional_codes(table, "max_per_node")
    if limit is not None:
        grouped = group >= 0 if group is not None else np.zeros(table.rows, dtype=np.bool_)
        table.refuse((limit > 0) & ~grouped, "max_per_node", lambda row: "the guest has a limit, but no group")
    anti, anti_sets, group_names = _anti_affinity(table, group_names)
    selector, selector_texts = _list(table, "selector", labels_of)
    tolerations, toleration_texts = _list(table, "tolerations", items_of)
    deadline = table.floats("deadline_s", empty=FOREVER) if "deadline_s" in has else None
    if deadline is not None:
        refuse_before(table, deadline, "deadline_s", arrival)
    priority = optional_codes(table, "priority", low=-(2**31))
    return Guests(
        ids, kind, arrival, departure, table.ints("cpu_milli"), table.ints("memory_mib"),
        gpu_count, gpu_milli, gpu_models, _or_none(group), limit, anti, selector, tolerations,
        priority, deadline if deadline is not None and np.isfinite(deadline).any() else None,
        gpu_model_sets=model_sets,
        group_names=group_names,
        anti_affinity_sets=anti_sets,
        selectors=tuple(frozenset(labels_of(text).items()) for text in selector_texts),
        toleration_sets=tuple(frozenset(items_of(text)) for text in toleration_texts),
    )  # fmt: skip


def usage_of(table: Table, guests: Guests) -> Usage:
    """Check and convert a table of usage of ``guests``; rows come back sorted by start."""
    table.expect(USAGE_REQUIRED, USAGE_OPTIONAL)
    names, values = table.texts("id")
    rows = pc.index_in(pa.array(values, pa.string()), value_set=guests.ids.cast(pa.string()))
    of_value = np.append(np.asarray(pc.fill_null(rows, -1), dtype=np.int32), np.int32(-1))
    guest = of_value[names]
    table.refuse(names < 0, "id", lambda row: "the name is empty")
    table.refuse(guest < 0, "id", lambda row: f"no guest is called {values[names[row]]!r}")
    start, end = table.floats("start_s"), table.floats("end_s")
    refuse_before(table, end, "end_s", start)
    phase, phase_names = table.texts("phase") if "phase" in table.names else (None, ())
    order = np.argsort(start, kind="stable")
    return Usage(
        guest[order], start[order], end[order],
        table.ints("cpu_milli")[order], table.ints("memory_mib")[order],
        phase[order] if phase is not None and phase_names else None, phase_names,
    )  # fmt: skip


def refuse_before(table: Table, later: Floats, column: str, earlier: Floats) -> None:
    """Raise for the first row whose ``later`` time lies before the earlier one."""
    words = {
        "departure_s": "departs {:g}, before it arrives at {:g}",
        "end_s": "ends {:g}, before it starts at {:g}",
    }
    sentence = words.get(column, "{:g} is before the arrival at {:g}")
    table.refuse(later < earlier, column, lambda row: sentence.format(later[row], earlier[row]))


def optional_codes(table: Table, name: str, low: int = 0) -> Codes | None:
    """An optional column of whole numbers, empty as 0; None where it is absent or all 0."""
    values = table.codes(name, low=low) if name in table.names else None
    return values if values is not None and values.any() else None


def check_gpus(table: Table, count: Codes, milli: Codes, column: str) -> None:
    """Raise where ``gpu_milli`` does not suit the number of devices."""
    table.refuse((count > 0) & (milli <= 0), column, lambda row: f"{milli[row]} of each GPU; at least 1 is needed")
    table.refuse(milli > 1000, column, lambda row: f"{milli[row]} is more than a whole GPU (1000)")
    table.refuse((count == 0) & (milli > 0), column, lambda row: f"{milli[row]} of no GPU: the number of GPUs is 0")


def _kinds(table: Table) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    codes, values = table.parsed("kind", _kind)
    table.refuse(codes < 0, "kind", lambda row: f"the value is missing; known: {', '.join(KINDS)}")
    return np.array([KINDS.index(value) for value in values], dtype=np.uint8)[codes]


def _kind(text: str) -> int:
    if text not in KINDS:
        raise ValueError(f"unknown kind {text!r}; known: {', '.join(KINDS)}")
    return KINDS.index(text)


def _gpus(table: Table, has: set[str]) -> tuple[Codes | None, Codes | None, Codes | None, tuple[tuple[str, ...], ...]]:
    models, texts = _list(table, "gpu_models", items_of)
    sets = tuple(items_of(text) for text in texts)
    if "gpu_count" not in has and "gpu_milli" in has:
        raise table.error("needs the column gpu_count beside it", column="gpu_milli")
    count = table.codes("gpu_count") if "gpu_count" in has else np.zeros(table.rows, dtype=np.int32)
    milli = _milli(table, has, count)
    check_gpus(table, count, milli, "gpu_milli")
    if not count.any() and models is None:
        return None, None, None, ()
    return count, milli, models, sets


def _milli(table: Table, has: set[str], count: Codes) -> Codes:
    whole = np.where(count > 0, 1000, 0).astype(np.int32)
    if "gpu_milli" not in has:
        return whole
    # -1 is no number that the column can hold: it marks what is empty.
    milli = table.codes("gpu_milli", empty=-1)
    return np.where(milli == -1, whole, milli).astype(np.int32)


def _anti_affinity(
    table: Table, group_names: tuple[str, ...]
) -> tuple[Codes | None, tuple[frozenset[int], ...], tuple[str, ...]]:
    codes, texts = _list(table, "anti_affinity", items_of)
    index = {name: i for i, name in enumerate(group_names)}
    sets = []
    for text in texts:
        sets.append(frozenset(index.setdefault(name, len(index)) for name in items_of(text)))
    return codes, tuple(sets), tuple(index)


def _list(table: Table, name: str, parse: Callable[[str], object]) -> tuple[Codes | None, tuple[str, ...]]:
    """Codes of an optional column of lists, None where it is absent or empty, and its checked texts."""
    if name not in table.names:
        return None, ()
    codes, texts = table.parsed(name, parse)
    return _or_none(codes), texts


def _or_none(codes: Codes | None) -> Codes | None:
    return codes if codes is not None and (codes >= 0).any() else None
