"""The best possible: bounds hold for every policy, and are met where a perfect packing is known."""

from dataclasses import replace

import gpve_sim as lab
import numpy as np
import pytest
from gpve_sim.best_possible import fewest_possible, most_possible
from gpve_sim.kernel import tables as t
from gpve_sim.workload import NodeEvents

from gpve.model import Guests
from tests.lab.perfect import halves_that_fill

POLICIES = ("fgd", "best-fit", "gpu-packing", "worst-fit", "random")


@pytest.mark.parametrize("trace", ["generated/openb-like", "generated/azure-like"])
def test_no_policy_places_more(trace):
    """The bound does not depend on the policy, and none exceeds it, on a cluster that is pressed."""
    loaded = lab.load(trace, guests=3000)
    nodes = loaded.nodes.take(np.arange(0, len(loaded.nodes), 8))
    found = [most_possible(lab.replay(loaded, policy, nodes=nodes, departures=False).replayed) for policy in POLICIES]
    assert len({most.bound for most in found}) == 1
    assert all(0 < most.placed <= most.bound for most in found)
    assert all(0 <= most.distance_pct < 50 for most in found)


@pytest.mark.parametrize("queue", ["drop", "wait", "backfill"])
def test_no_policy_needs_fewer_nodes(queue):
    """At every moment the lower bound is at most the active nodes; the guests are those that the loop counted."""
    loaded = lab.load("generated/azure-like", guests=3000)
    nodes = loaded.nodes.take(np.arange(40))
    for policy in ("best-fit", "worst-fit"):
        replayed = lab.replay(loaded, policy, nodes=nodes, queue=queue).replayed
        found = fewest_possible(replayed)
        assert len(found) == 5
        rows = {row[t.T_TIME]: row for row in replayed.run.timeline}
        for moment in found:
            assert moment.guests == rows[moment.time_s][t.T_QUANTITIES + t.RUNNING]
            assert 1 <= moment.lower <= moment.upper <= moment.active
            assert 0 <= moment.distance_pct < 100


def test_a_perfect_packing_is_the_best():
    """Guests that fill their nodes to the last device: distance 0, in nodes and in GPUs."""
    trace = halves_that_fill()
    assert most_possible(lab.replay(trace, "first-fit").replayed).distance_pct == 0
    leaves = replace(trace, guests=replace(trace.guests, departure_s=trace.guests.arrival_s + 100), departures=True)
    found = fewest_possible(lab.replay(leaves, "first-fit").replayed)
    assert [moment.distance_pct for moment in found] == [0] * len(found)
    assert found


def test_overcommit_and_eligibility():
    """The bound counts claims up to the overcommit, and only nodes that admit a guest."""
    trace = halves_that_fill()
    small = replace(trace.nodes, cpu_milli=trace.nodes.cpu_milli // 4, cpu_overcommit=np.full(len(trace.nodes), 4.0))
    most = most_possible(lab.replay(trace, "first-fit", nodes=small).replayed)
    assert (most.bound, most.distance_pct) == (8000, 0)
    tainted = replace(trace.nodes, taints=(frozenset({"no"}), *[frozenset()] * (len(trace.nodes) - 1)))
    most = most_possible(lab.replay(trace, "first-fit", nodes=tainted).replayed)
    assert (most.bound, most.distance_pct) == (6000, 0)


def test_what_has_no_answer():
    """Nothing runs, or failures of nodes: no moments. Devices of which nothing is asked: no division by zero."""
    none = Guests.empty()
    trace = halves_that_fill()
    nothing = lab.replay(replace(trace, guests=none, departures=True), "first-fit").replayed
    assert fewest_possible(nothing) == []
    leaves = replace(trace, guests=replace(trace.guests, departure_s=trace.guests.arrival_s + 100), departures=True)
    failure = NodeEvents.of([(50.0, t.FAIL, 0)])
    assert fewest_possible(lab.replay(leaves, "first-fit", events=failure).replayed) == []
    free = replace(trace.guests, gpu_milli=np.zeros(len(trace.guests), np.int32))
    assert most_possible(lab.replay(replace(trace, guests=free), "first-fit").replayed).distance_pct == 0


def test_comparisons_say_it(tmp_path):
    """One column in the table, one section in the report; and it can be left out."""
    trace = lab.load("generated/openb-like", guests=1500)
    found = lab.compare(trace, ["fgd", "random"], seeds=2)
    assert found.runs.distance_pct.between(0, 100).all()
    assert len(found.bounds) == 1
    assert "distance from best possible" in found.report(tmp_path / "r.html").read_text()
    left_out = lab.compare(trace, ["fgd"], seeds=1, bounds=False)
    assert "distance_pct" not in left_out.table().columns
    assert left_out.bounds == {}
    ends = lab.load("generated/azure-like", guests=1000)
    found = lab.compare(ends, ["best-fit", "worst-fit"], seeds=2)
    assert found.runs.distance_pct.notna().sum() == 2
    assert found.table().distance_pct.between(0, 100).all()
    assert "would do" in found.report(tmp_path / "r.html").read_text()
