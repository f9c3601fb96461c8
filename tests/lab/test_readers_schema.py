"""The project's own schema: what is written is read back the same, in every format."""

import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from gpve_sim.catalogue import load
from gpve_sim.readers.nodes import read_nodes
from gpve_sim.trace import Trace
from gpve_sim.write import SUFFIXES, write_guests, write_nodes, write_trace
from hypothesis import given, settings
from hypothesis import strategies as st

from gpve.model import FOREVER, Guests, InputError, Nodes, PowerCurve, Usage

# Any text but surrogates, which UTF-8 has no bytes for, and NUL, which no CSV reader takes.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8)
ITEM = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="|="), min_size=1, max_size=5)
TIME = st.floats(0, 1e9, allow_nan=False)
SUFFIX = st.sampled_from(SUFFIXES)


def spelt(guests: Guests) -> list[dict[str, Any]]:
    """Guests as rows of what they mean, whatever their codes are."""
    of = {
        "gpu_models": guests.gpu_model_sets, "group": guests.group_names, "selector": guests.selectors,
        "tolerations": guests.toleration_sets,
        "anti_affinity": tuple(frozenset(guests.group_names[i] for i in s) for s in guests.anti_affinity_sets),
    }  # fmt: skip
    rows: list[dict[str, Any]] = [{"id": name} for name in guests.ids.to_pylist()]
    for field in fields(guests):
        column = getattr(guests, field.name)
        if isinstance(column, np.ndarray):
            for row, value in zip(rows, column.tolist(), strict=True):
                row[field.name] = value if field.name not in of else of[field.name][value] if value >= 0 else None
    # What no guest uses may be absent, or there without a value.
    usual: tuple[Any, ...] = (None, 0, FOREVER)
    keep = ("arrival_s", "departure_s", "kind", "cpu_milli", "memory_mib")
    return [{k: v for k, v in row.items() if k in keep or v not in usual} for row in rows]


@st.composite
def any_guests(draw: st.DrawFn) -> Guests:
    names = draw(st.lists(TEXT, min_size=1, max_size=6, unique=True))
    n = len(names)

    def column(values: st.SearchStrategy[Any], dtype: Any) -> Any:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    arrival = column(TIME, np.float64)
    departure = np.maximum(arrival, column(TIME | st.just(FOREVER), np.float64))
    count = column(st.integers(0, 4), np.int32)
    milli = np.where(count > 0, column(st.integers(1, 1000), np.int32), 0).astype(np.int32)
    groups = tuple(draw(st.lists(ITEM, min_size=2, max_size=3, unique=True)))
    group = column(st.integers(-1, 1), np.int32)
    pair = st.tuples(ITEM, ITEM)
    return Guests(
        pa.array(names, pa.string()), column(st.integers(0, 2), np.uint8), arrival, departure,
        column(st.integers(0, 2**53), np.int64), column(st.integers(0, 2**40), np.int64), count, milli,
        gpu_models=column(st.integers(-1, 1), np.int32),
        group=group,
        max_per_node=np.where(group >= 0, column(st.integers(0, 9), np.int32), 0).astype(np.int32),
        anti_affinity=column(st.integers(-1, 0), np.int32),
        selector=column(st.integers(-1, 0), np.int32),
        tolerations=column(st.integers(-1, 0), np.int32),
        priority=column(st.integers(-5, 5), np.int32),
        deadline_s=np.maximum(arrival, column(TIME | st.just(FOREVER), np.float64)),
        gpu_model_sets=(("A", "B", "B"), ("T4",)),
        group_names=groups,
        anti_affinity_sets=(frozenset(draw(st.sets(st.integers(0, len(groups) - 1), min_size=1))),),
        selectors=(frozenset(dict(draw(st.lists(pair, min_size=1, max_size=3))).items()),),
        toleration_sets=(frozenset(draw(st.sets(ITEM, min_size=1, max_size=3))),),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(any_guests(), SUFFIX)
def test_guests_come_back_the_same(guests: Guests, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"g{suffix}"
        write_guests(guests, path)
        back = load(path, nodes=Nodes((), *([np.zeros(0, dtype=np.int64)] * 4))).guests
        again = Path(folder) / f"h{suffix}"
        write_guests(back, again)
        assert spelt(back) == spelt(guests)
        assert spelt(load(again).guests) == spelt(guests)
        assert sorted(p.name for p in Path(folder).iterdir()) == [path.name, again.name]


@st.composite
def any_nodes(draw: st.DrawFn) -> Nodes:
    names = draw(st.lists(TEXT, min_size=1, max_size=5, unique=True))
    n = len(names)

    def listed(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    count = np.array(listed(st.integers(0, 8)), dtype=np.int32)
    add = np.array(listed(TIME))
    return Nodes(
        tuple(names), np.array(listed(st.integers(0, 10**9)), dtype=np.int64),
        np.array(listed(st.integers(0, 10**9)), dtype=np.int64), count,
        np.where(count > 0, np.array(listed(st.integers(-1, 1))), -1).astype(np.int32), ("T4", "A|B, \"C\""),
        labels=tuple(listed(st.dictionaries(ITEM, ITEM, max_size=2))),
        taints=tuple(listed(st.frozensets(ITEM, max_size=2))),
        cpu_overcommit=np.array(listed(st.floats(0.5, 16))),
        memory_overcommit=np.array(listed(st.floats(0.5, 2))),
        power=np.array(listed(st.integers(-1, 1)), dtype=np.int32),
        power_curves=(PowerCurve((100.0, 300.5)), PowerCurve((1.0, 2.0, 3.0))),
        add_s=add,
        drain_s=np.maximum(add, np.array(listed(TIME | st.just(FOREVER)))),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(any_nodes(), SUFFIX)
def test_nodes_come_back_the_same(nodes: Nodes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"n{suffix}"
        write_nodes(nodes, path)
        back = read_nodes(path)
    n = len(nodes)
    models = [[(*x.gpu_model_names, None)[c] for c in x.gpu_model] for x in (nodes, back)]
    assert models[0] == models[1]
    curves = [
        [x.power_curves[c].watts if c >= 0 else None for c in x.power] if x.power is not None else [None] * n
        for x in (nodes, back)
    ]
    assert curves[0] == curves[1]
    assert (back.names, back.cpu_milli.tolist(), back.memory_mib.tolist(), back.gpu_count.tolist()) == (
        nodes.names, nodes.cpu_milli.tolist(), nodes.memory_mib.tolist(), nodes.gpu_count.tolist(),
    )  # fmt: skip
    assert (back.labels or ({},) * n, back.taints or (frozenset(),) * n) == (nodes.labels, nodes.taints)
    for name, usual in (("cpu_overcommit", 1.0), ("memory_overcommit", 1.0), ("add_s", 0.0), ("drain_s", FOREVER)):
        values = getattr(back, name)
        assert (values if values is not None else np.full(n, usual)).tolist() == getattr(nodes, name).tolist()


def small_trace() -> Trace:
    guests = Guests(
        pa.array(["a", "b"]), np.zeros(2, dtype=np.uint8), np.array([0.0, 5.0]), np.array([9.5, FOREVER]),
        np.array([1000, 2000]), np.array([512, 1024]),
    )  # fmt: skip
    nodes = Nodes(("n",), np.array([8000]), np.array([9999]), np.zeros(1, np.int32), np.full(1, -1, np.int32))
    usage = Usage(
        np.array([0, 1, 0], dtype=np.int32), np.array([0.0, 5.0, 6.0]), np.array([6.0, 9.0, 9.5]),
        np.array([1, 2, 3]), np.array([4, 5, 6]), np.array([0, 1, 1], dtype=np.int32), ("busy", "quiet"),
    )  # fmt: skip
    return Trace("small", guests, nodes, usage)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_trace_is_written_with_its_nodes_and_usage(tmp_path: Path, suffix: str) -> None:
    trace = small_trace()
    written = write_trace(trace, tmp_path / f"t.v1{suffix}")
    assert [p.name for p in written] == [f"t.v1{suffix}", f"t.v1.nodes{suffix}", f"t.v1.usage{suffix}"]
    back = load(written[0])
    assert back.nodes.names == ("n",)
    assert back.usage is not None
    assert trace.usage is not None
    for field in fields(Usage):
        assert np.array_equal(getattr(back.usage, field.name), getattr(trace.usage, field.name))
    assert set(back.sources) == {f"t.v1{suffix}", f"t.v1.usage{suffix}"}


def test_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(small_trace(), tmp_path / "missing" / "t.csv")
    with pytest.raises(InputError, match="suffix"):
        write_trace(small_trace(), tmp_path / "t.xlsx")
    trace = small_trace()
    bad = Guests(**{**{f.name: getattr(trace.guests, f.name) for f in fields(Guests)},
                    "group": np.zeros(2, np.int32), "anti_affinity": np.zeros(2, np.int32),
                    "group_names": ("a|b",), "anti_affinity_sets": (frozenset({0}),)})  # fmt: skip
    with pytest.raises(InputError, match="has a bar"):
        write_guests(bad, tmp_path / "t.csv")
    assert list(tmp_path.iterdir()) == []


def test_missing_optional_values_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "g.csv"
    path.write_text(
        "id,kind,arrival_s,departure_s,cpu_milli,memory_mib,gpu_count,gpu_milli\na,vm,0,,1,1,,\nb,vm,0, 7,1e3,1,2,\n"
    )
    trace = load(path)
    guests = trace.guests
    assert guests.departure_s.tolist() == [FOREVER, 7]
    assert guests.cpu_milli.tolist() == [1, 1000]
    assert guests.gpu_count is not None
    assert guests.gpu_milli is not None
    assert (guests.gpu_count.tolist(), guests.gpu_milli.tolist()) == ([0, 2], [0, 1000])
    # The default cluster: one node for the plain guest, one with GPUs for the other.
    assert trace.nodes.gpu_count.tolist() == [0, 8]
    assert "Default cluster" in trace.notes[0]


def test_a_million_guests_load_in_a_second(tmp_path: Path) -> None:
    trace = load("generated/peers", guests=1_000_000, hosts=100)
    path = tmp_path / "g.parquet"
    write_guests(trace.guests, path)
    started = time.perf_counter()
    back = load(path, nodes=trace.nodes).guests
    # Half a second here; the bound leaves room for a busy machine.
    assert time.perf_counter() - started < 4
    assert back.ids.equals(trace.guests.ids)
    assert np.array_equal(back.departure_s, trace.guests.departure_s)
    # What numba gets is numpy's own memory: writable and contiguous.
    assert back.cpu_milli.flags.writeable
    assert back.cpu_milli.flags.c_contiguous
