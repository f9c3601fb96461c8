"""The policy or-tools: batches are never worse than their heuristic, and leave the state consistent."""

import json

import numpy as np
from gpve_sim.batched import Batching, replay_batched
from gpve_sim.driver import Settings
from gpve_sim.kernel import tables as t
from gpve_sim.results import digest
from gpve_sim.trace import Trace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.perfect import halves_that_fill
from tests.worlds import clusters, guest_lists

MANY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@MANY
@given(clusters(), guest_lists(), st.sampled_from(["drop", "wait"]), st.booleans())
def test_never_worse_and_consistent(nodes, guests, queue, departs):
    """Each batch reaches its hint; what is free at the end is the capacity without the claims; no guest is lost."""
    batching = Batching(window_s=3.0) if departs else Batching(size=5)
    trace = Trace("random", guests, nodes, departures=departs)
    replayed, decisions = replay_batched(trace, settings=Settings(queue=queue), batching=batching)
    assert all(d.reached >= d.hint for d in decisions)
    state, run, classes = replayed.state, replayed.run, replayed.requests.classes[replayed.requests.of_guest]
    runs = run.node_now >= 0
    if departs:
        runs &= run.end > -np.inf
    for column, used in ((state.free_cpu, "cpu"), (state.free_mem, "mem")):
        claimed = np.bincount(run.node_now[runs], classes[used][runs], minlength=len(nodes)).astype(int)
        assert (state.nodes[used] - column == claimed).all()
        assert (column >= 0).all()
    assert (state.nodes["guests"] == np.bincount(run.node_now[runs], minlength=len(nodes))).all()
    left = sum(int((1000 - g[g >= 0]).sum()) for g in state.free_gpu)
    assert left == int((classes["gpu_count"] * classes["gpu_milli"])[runs].sum()) == run.now[t.GPU]
    assert run.at[t.A_PLACED] + run.at[t.A_FAILED] + run.now[t.WAITING] == len(guests) == run.at[t.A_ARRIVAL]


def test_a_perfect_packing_is_placed_whole():
    """All guests of a packing that fills every node; the same seed gives the same bytes."""
    trace = halves_that_fill()
    first, decisions = replay_batched(trace, batching=Batching(size=8))
    assert (first.run.node >= 0).all()
    assert {d.status for d in decisions} == {"optimal"}
    assert digest(first) == digest(replay_batched(trace, batching=Batching(size=8))[0])


def test_command(gpve, tmp_path):
    """The summary has what the optimizer said; what does not go together is one sentence."""
    run = ("replay", "generated/azure-like", "--policy")
    told = gpve("replay", "generated/azure-like", "--policy", "or-tools", "--batch-window", "20000", "--json")
    assert told.code == 0, told.err
    said = json.loads(told.out)
    assert said["policy"] == "or-tools"
    assert sum(said["or_tools"]["status"].values()) == said["or_tools"]["batches"] > 1
    for arguments, words in (
        ((*run, "best-fit", "--batch-size", "5"), "one by one"),
        ((*run, "or-tools", "--batch-size", "5"), "--batch-window"),
        ((*run, "or-tools", "--batch-window", "-1"), "above 0"),
        (("compare", "generated/azure-like", "--policy", "or-tools"), "gpve replay alone"),
    ):
        told = gpve(*arguments)
        assert told.code == 2
        assert words in told.err
