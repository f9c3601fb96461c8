"""The policy or-tools: batches are never worse than their heuristic, and leave the state consistent."""

import json
import subprocess
import sys
from dataclasses import replace

import gpve_sim as lab
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from gpve_sim.batched import replay_batched
from gpve_sim.comparison import VARY, vary
from gpve_sim.driver import Settings
from gpve_sim.kernel import tables as t
from gpve_sim.policies import Batching
from gpve_sim.results import digest
from gpve_sim.sweep import read_sweep, run_sweep
from gpve_sim.trace import Trace
from gpve_sim.workload import NodeEvents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.model import Guests, InputError, Nodes
from gpve.scheduler.fragmentation import typical_requests
from tests.lab.perfect import halves_that_fill
from tests.worlds import clusters, guest_lists

MANY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@MANY
@given(clusters(), guest_lists(), st.sampled_from(["drop", "wait", "backfill"]), st.booleans())
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


@MANY
@given(clusters(), guest_lists(), st.booleans())
def test_nobody_passes_the_head_of_the_queue(nodes, guests, departs):
    """With ``wait``, who starts finds nobody of higher priority, or of the same and earlier, still waiting."""
    batching = Batching(window_s=3.0) if departs else Batching(size=5)
    trace = Trace("random", guests, nodes, departures=departs)
    replayed, _ = replay_batched(trace, settings=Settings(queue="wait"), batching=batching)
    run, load = replayed.run, replayed.load
    start = np.where(run.node >= 0, run.start, np.inf)
    priority = guests.priority if guests.priority is not None else np.zeros(len(guests), int)
    deadline = load.deadline if len(load.deadline) else np.full(len(guests), np.inf)
    for g in np.flatnonzero(run.node >= 0).tolist():
        before = (priority > priority[g]) | ((priority == priority[g]) & (load.rank < load.rank[g]))
        waited = before & (load.arrival < start[g]) & (deadline >= start[g])
        assert (start[waited] <= start[g]).all()


def queue_of_three():
    """10 cores: 8 run for 100 s; 5 must wait for them; 2 would fit beside them."""
    nodes = Nodes(
        names=("n0",),
        cpu_milli=np.array([10_000]),
        memory_mib=np.array([10_000]),
        gpu_count=np.zeros(1, np.int32),
        gpu_model=np.full(1, -1, np.int32),
        gpu_model_names=(),
    )
    arrival = np.array([0.0, 11.0, 12.0])
    guests = Guests(
        ids=pa.array(["first", "large", "small"]),
        kind=np.zeros(3, np.uint8),
        arrival_s=arrival,
        departure_s=arrival + 100,
        cpu_milli=np.array([8000, 5000, 2000]),
        memory_mib=np.full(3, 10),
        gpu_count=np.zeros(3, np.int32),
        gpu_milli=np.zeros(3, np.int32),
    )
    return Trace("three", guests, nodes, departures=True)


def test_wait_is_not_backfill():
    """The small guest waits behind the large one with ``wait``, and passes it with ``backfill``."""
    started = {}
    for queue in ("wait", "backfill"):
        replayed, _ = replay_batched(queue_of_three(), settings=Settings(queue=queue), batching=Batching(window_s=10.0))
        assert (replayed.run.node == 0).all()
        started[queue] = replayed.run.start.tolist()
    assert started["wait"] == [10.0, 110.0, 110.0]
    assert started["backfill"] == [10.0, 110.0, 20.0]


def test_same_seed_same_bytes(gpve, tmp_path):
    """placements.csv, in this process and in another, where guests depart and wait, and where none departs."""
    for trace, options in (
        ("generated/azure-like", ("--batch-window", "20000", "--queue", "wait")),
        ("generated/openb-like", ("--no-departures", "--batch-size", "300")),
    ):
        run = ("replay", trace, "--policy", "or-tools", "--seed", "3", "--no-plots", *options, "--out")
        here, there = tmp_path / options[0] / "here", tmp_path / options[0] / "there"
        assert gpve(*run, here).code == 0
        subprocess.run([sys.executable, "-m", "gpve", *run, str(there)], check=True, capture_output=True)
        written = (here / "placements.csv").read_bytes()
        assert written.count(b"\n") > 1000
        assert written == (there / "placements.csv").read_bytes()


def test_compare_and_sweep(tmp_path):
    """Both replay the same batches as `replay_batched`, whatever runs beside them."""
    trace = lab.load("generated/openb-like", guests=800)
    found = lab.compare(trace, ["fgd", "or-tools"], seeds=2, queue="drop")
    rows = found.runs.set_index(["row", "seed"])
    for seed in (0, 1):
        guests, nodes = vary(trace, trace.nodes, seed, VARY, departs=False)
        typical = typical_requests(trace.guests, nodes.gpu_model_names)
        replayed, _ = replay_batched(guests, nodes=nodes, settings=Settings(seed=seed), typical=typical)
        assert rows.at[("or-tools", seed), "placements_sha256"] == digest(replayed)
        assert rows.at[("or-tools", seed), "placed"] == replayed.run.at[t.A_PLACED]
    assert (found.table()["distance_pct"] >= 0).all()
    file = tmp_path / "sweep.toml"
    file.write_text('traces = ["generated/openb-like"]\npolicies = ["or-tools"]\nseeds = [1]\n')
    swept = pd.read_parquet(run_sweep(read_sweep(file), tmp_path / "sweep.parquet", workers=1))
    again = lab.compare("generated/openb-like", ["or-tools"], seeds=[1]).runs
    same = ["policy", "seed", "placed", "gpu_pct", "fragmentation_pct", "placements_sha256"]
    pd.testing.assert_frame_equal(swept[same], again[same])


def test_from_python():
    """`lab.replay` takes it by name or with its batches; what happens to nodes beside their columns is refused."""
    trace = lab.load("generated/openb-like", guests=400)
    for policy, batching in (("or-tools", None), (Batching(size=100), Batching(size=100))):
        found = lab.replay(trace, policy)
        assert digest(found.replayed) == digest(replay_batched(trace, batching=batching)[0])
        assert found.summary["or_tools"]["batch_size"] == (50 if batching is None else 100)
    with pytest.raises(InputError, match="takes no events"):
        lab.replay(trace, "or-tools", events=NodeEvents.none())


def test_guests_wait_for_their_batch():
    """Even where nothing queues: from arrival to the end of the window."""
    guests = Guests(
        ids=pa.array(["a", "b", "c"]),
        kind=np.zeros(3, np.uint8),
        arrival_s=np.array([0.0, 4.0, 9.0]),
        departure_s=np.array([100.0, 100.0, 100.0]),
        cpu_milli=np.array([1000, 1000, 9000]),
        memory_mib=np.array([1024, 1024, 1024]),
    )
    waited = lab.replay(Trace("three", guests, lab.load_nodes("1x(4c,16G)")), Batching(window_s=10.0)).summary
    assert (waited["placed"], waited["failed"]) == (2, 1)
    assert waited["wait_s"] == {"mean": 8.0, "p50": 8.0, "p99": pytest.approx(9.96), "max": 10.0}


def test_few_nodes_are_opened_where_that_counts():
    """The guests placed come first; then fewer nodes than the heuristic opens, if that is asked for."""
    whole = lab.load("generated/openb-like")
    trace = replace(whole, guests=whole.guests.take(np.arange(300)), usage=None)
    settings = Settings(departures=False)
    few, decisions = replay_batched(trace, settings=settings, batching=Batching(spare_nodes=True))
    any_number, _ = replay_batched(trace, settings=settings)
    assert few.run.now[t.ACTIVE] < any_number.run.now[t.ACTIVE] / 2
    assert few.run.at[t.A_PLACED] == any_number.run.at[t.A_PLACED] == 300
    assert all(d.reached > d.hint and d.gap < 0.5 for d in decisions)
    assert any(d.status == "optimal" for d in decisions)


def test_command(gpve, tmp_path):
    """The summary has what the optimizer said; what does not go together is one sentence."""
    out = tmp_path / "run"
    run = ("replay", "generated/azure-like", "--policy")
    told = gpve(
        "replay", "generated/azure-like", "--policy", "or-tools", "--batch-window", "20000", "--json", "--out", out
    )
    assert told.code == 0, told.err
    said = json.loads(told.out)
    assert said["policy"] == "or-tools"
    assert sum(said["or_tools"]["status"].values()) == said["or_tools"]["batches"] > 1
    for arguments, words in (
        ((*run, "best-fit", "--batch-size", "5"), "one by one"),
        ((*run, "or-tools", "--batch-size", "5"), "--batch-window"),
        ((*run, "or-tools", "--batch-window", "-1"), "above 0"),
        (("size", "generated/azure-like", "--node", "64c,256G", "--policy", "or-tools"), "replay, compare and sweep"),
        (("explain", out, "vm-0"), "whole batches"),
    ):
        told = gpve(*arguments)
        assert told.code == 2
        assert words in told.err
        assert told.err.count("\n") == 1
