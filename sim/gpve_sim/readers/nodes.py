"""Node lists: the project's schema, openb's columns, and those of alibaba-spot-nodes-2026.

The project's: name cpu_milli memory_mib, optional gpu_count gpu_model labels taints overcommit power add_s
drain_s. labels are ``key=value|key=value``, taints ``a|b``, overcommit ``4`` (of CPU) or
``cpu=4|memory=1.5``, power ``100|300``: watts at equal steps of load from idle to full.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpve.model import FOREVER, Nodes, PowerCurve
from gpve_sim.readers.lists import items_of, labels_of
from gpve_sim.readers.table import Codes, Floats, Table, open_table

REQUIRED = ("name", "cpu_milli", "memory_mib")
OPTIONAL = ("gpu_count", "gpu_model", "labels", "taints", "overcommit", "power", "add_s", "drain_s")
OPENB = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
SPOT = ("gpu_model", "gpu_capacity_num", "cpu_num", "node_name")
SPOT_GIB_PER_CPU = 8
"""The list has no memory: 8 GiB for each vCPU is our assumption."""


def read_nodes(path: Path) -> Nodes:
    """The nodes of ``path``, whose columns tell the format. Raises `InputError`."""
    table = open_table(path, ("gpu_model", "labels", "taints", "overcommit", "power"))
    if "sn" in table.names:
        nodes = _openb(table)
    elif "gpu_capacity_num" in table.names:
        nodes = _spot(table)
    else:
        nodes = _ours(table)
    table.some_rows("a cluster needs nodes")
    return nodes


def _openb(table: Table) -> Nodes:
    table.expect(OPENB)
    names = tuple(table.unique("sn").to_pylist())
    model, model_names = table.texts("model")
    count = table.codes("gpu")
    _check_models(table, "model", count, model)
    return Nodes(names, table.ints("cpu_milli"), table.ints("memory_mib"), count, model, model_names)


def _spot(table: Table) -> Nodes:
    table.expect(SPOT)
    cpu = table.ints("cpu_num")
    model, model_names = table.texts("gpu_model")
    count = table.codes("gpu_capacity_num")
    _check_models(table, "gpu_model", count, model)
    names = tuple(f"node-{name}" for name in table.unique("node_name").to_pylist())
    return Nodes(names, cpu * 1000, cpu * (SPOT_GIB_PER_CPU * 1024), count, model, model_names)


def _ours(table: Table) -> Nodes:
    table.expect(REQUIRED, OPTIONAL)
    has = set(table.names)
    names = tuple(table.unique("name").to_pylist())
    nothing = np.zeros(table.rows, dtype=np.int32)
    count = table.codes("gpu_count") if "gpu_count" in has else nothing
    model, models = table.texts("gpu_model") if "gpu_model" in has else (nothing - 1, ())
    _check_models(table, "gpu_model", count, model)
    labels = _texts(table, "labels", labels_of)
    taints = _texts(table, "taints", items_of)
    cpu_over, memory_over = _overcommit(table) if "overcommit" in has else (None, None)
    power, curves = table.parsed("power", _curve) if "power" in has else (None, ())
    add = table.floats("add_s", empty=0.0) if "add_s" in has else None
    drain = table.floats("drain_s", empty=FOREVER) if "drain_s" in has else None
    if drain is not None:
        since = np.zeros(table.rows) if add is None else add
        table.refuse(drain < since, "drain_s", lambda row: f"drained at {drain[row]:g}, before it is added")
    return Nodes(
        names, table.ints("cpu_milli"), table.ints("memory_mib"), count, model, models,
        labels=None if labels is None else tuple(labels_of(text) if text else {} for text in labels),
        taints=None if taints is None else tuple(frozenset(items_of(t) if t else ()) for t in taints),
        cpu_overcommit=cpu_over,
        memory_overcommit=memory_over,
        power=power if curves else None,
        power_curves=tuple(_curve(text) for text in curves),
        add_s=add if add is not None and add.any() else None,
        drain_s=drain if drain is not None and np.isfinite(drain).any() else None,
    )  # fmt: skip


def _check_models(table: Table, column: str, count: Codes, model: Codes) -> None:
    table.refuse((count == 0) & (model >= 0), column, lambda row: "the node has a GPU model, but no GPU")


def _texts(table: Table, name: str, parse: Callable[[str], object]) -> tuple[str, ...] | None:
    """(N,) checked texts of an optional column; None where no node has any."""
    if name not in table.names:
        return None
    codes, values = table.parsed(name, parse)
    return tuple(values[code] if code >= 0 else "" for code in codes) if values else None


def _overcommit(table: Table) -> tuple[Floats | None, Floats | None]:
    codes, values = table.parsed("overcommit", _ratios)
    ratios = np.array([_ratios(value) for value in values] + [(1.0, 1.0)])[codes]
    cpu, memory = ratios[:, 0].copy(), ratios[:, 1].copy()
    return cpu if (cpu != 1).any() else None, memory if (memory != 1).any() else None


def _ratios(text: str) -> tuple[float, float]:
    """``4`` or ``cpu=4|memory=1.5`` as the ratios of CPU and of memory."""
    if "=" not in text:
        return _positive(text), 1.0
    found = labels_of(text)
    if not found.keys() <= {"cpu", "memory"}:
        raise ValueError(f"{text!r}: ratios are of cpu and memory, such as cpu=4|memory=1.5")
    return _positive(found.get("cpu", "1")), _positive(found.get("memory", "1"))


def _curve(text: str) -> PowerCurve:
    watts = tuple(_positive(item, zero=True) for item in text.split("|"))
    if len(watts) < 2:
        raise ValueError(f"{text!r}: a power curve has two points or more, such as 100|300 (idle, full)")
    return PowerCurve(watts)


def _positive(text: str, zero: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{text} is not a {'number of at least 0' if zero else 'ratio above 0'}")
    return number
