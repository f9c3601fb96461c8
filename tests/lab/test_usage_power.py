"""Used CPU and memory, and power by a curve of one's own, against plain sums."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from gpve_sim.driver import Settings, replay_trace
from gpve_sim.kernel import tables as t
from gpve_sim.trace import Trace
from gpve_sim.usage import usage_at
from hypothesis import given, settings
from hypothesis import strategies as st

from gpve.model import FOREVER, Guests, Nodes, PowerCurve, Usage
from gpve.scheduler.policy import load


def two_nodes(curves=()):
    """Two nodes of four cores, the first with a curve of its own."""
    gpus = np.zeros(2, dtype=np.int32)
    power = np.array([0, -1], dtype=np.int32) if curves else None
    return Nodes(
        ("a", "b"), np.full(2, 4000), np.full(2, 8192), gpus, gpus - 1, power=power, power_curves=tuple(curves)
    )  # fmt: skip


def guests_of(rows):
    """Guests from (arrival, departure, cpu) rows."""
    arrival, departure, cpu = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return Guests(
        pa.array([f"g{i}" for i in range(len(rows))]), np.zeros(len(rows), np.uint8), arrival, departure,
        cpu.astype(np.int64), np.full(len(rows), 512),
    )  # fmt: skip


ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from([1000, 2000, 4000])).map(
        lambda r: (r[0], r[0] + r[1], r[2])
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, data=st.data(), queue=st.sampled_from(["drop", "backfill"]))
def test_usage(rows, data, queue):
    """What is used is what the placed guests use, moved along with a late start."""
    guests = guests_of(rows)
    uses = data.draw(
        st.lists(
            st.tuples(st.integers(0, len(rows) - 1), st.integers(0, 15), st.integers(0, 5), st.integers(0, 900)),
            max_size=9,
        )
    )
    uses.sort(key=lambda u: u[1])
    g, start, length, cpu = (np.array([u[k] for u in uses], dtype=np.int64) for k in range(4))
    usage = Usage(g.astype(np.int32), start.astype(float), (start + length).astype(float), cpu, cpu * 2)
    replayed = replay_trace(
        Trace("t", guests, two_nodes(), usage=usage), load("best-fit"), settings=Settings(queue=queue)
    )
    times = np.arange(0, 40, 0.5)
    used = usage_at(replayed, times)
    for k, time in enumerate(times):
        wanted = 0
        for who, begin, lasts, amount in uses:
            if replayed.run.node[who] >= 0:
                late = replayed.run.start[who] - guests.arrival_s[who] if queue != "drop" else 0.0
                wanted += amount * (begin + late <= time < begin + lasts + late)
        assert (used.cpu_milli[k], used.memory_mib[k]) == (wanted, 2 * wanted)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, watts=st.lists(st.floats(50, 500), min_size=2, max_size=11))
def test_power_curve(rows, watts):
    """Energy is the integral of each node's curve over its load; a node without one takes the default."""
    guests = guests_of(rows)
    replayed = replay_trace(Trace("t", guests, two_nodes([PowerCurve(tuple(watts))])), load("first-fit"))
    node = replayed.run.node
    ends = guests.departure_s[node >= 0]
    last = max(float(ends.max(initial=0.0)), float(guests.arrival_s.max()))
    energy = 0.0
    moments = np.unique([*guests.arrival_s, *guests.departure_s[guests.departure_s < FOREVER]])
    for begin, end in itertools.pairwise(moments):
        if begin >= last:
            break
        for n, curve in enumerate((watts, (100.0, 300.0))):
            runs = (node == n) & (guests.arrival_s <= begin) & (guests.departure_s > begin)
            load_now = guests.cpu_milli[runs].sum() / 4000
            energy += (end - begin) * np.interp(load_now, np.linspace(0, 1, len(curve)), curve)
    assert replayed.run.integral[t.POWER] == pytest.approx(energy, rel=1e-9)
