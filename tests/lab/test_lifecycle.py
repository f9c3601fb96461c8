"""Lifecycle fidelity: the task engine places as the compiled loop does, and takes the time that its steps take."""

import json
from collections import Counter
from dataclasses import replace

import gpve_sim as lab
import numpy as np
import pytest
from gpve_sim.catalogue import ENTRIES
from gpve_sim.driver import Replayed, Settings, replay_trace
from gpve_sim.kernel.tables import A_LOG, BLOCKED, EXPIRED, MOVED, STARTED
from gpve_sim.policies import load
from gpve_sim.trace import Trace
from gpve_sim.world.lifecycle import replay_lifecycle
from gpve_sim.world.outages import Failures
from gpve_sim.world.profile import Profile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gpve.model.errors import InputError
from gpve.scheduler.policy import Policy
from gpve.tasks.audit import audit
from gpve.tasks.flows import FLOWS
from tests.lab.alike import alike, part, same
from tests.lab.loads import crowded, small_world
from tests.lab.traces_here import loaded
from tests.worlds import clusters, guest_lists

REAL = [entry.name for entry in ENTRIES.values() if entry.reader is not None]


QUEUES = ["drop", "wait", "backfill"]


def logged(placed: Replayed) -> list[tuple[int, int, int]]:
    """(event, guest, node) of a replay at placement fidelity."""
    log = placed.run.log[: placed.run.at[A_LOG]]
    return [(int(event), int(guest), int(node)) for _, guest, node, event, _ in log]


@pytest.mark.parametrize("policy", ["best-fit", "fgd", "random"])
@pytest.mark.parametrize("name", ["generated/openb-like", "generated/azure-like"])
def test_generated_traces_place_alike(name, policy):
    same(part(name, 600), policy, seed=3)


@pytest.mark.parametrize("name", REAL)
def test_real_traces_place_alike(name):
    same(part(name, 600), "best-fit")


@pytest.mark.full
@pytest.mark.parametrize("name", [*REAL, "generated/openb-like", "generated/azure-like"])
def test_longer_parts_place_alike(name):
    same(part(name, 6000), "worst-fit")


CROWDED = {"openb/default": 4, "openb/gpushare40": 2, "azure-vm-2017/dev": 4, "alibaba-dlrm-2025/default": 100}
CROWDED |= {"agents/azure-llm": 4, "opendc-surf-week/default": 40}
CROWDED |= {"generated/openb-like": 16, "generated/azure-like": 8}
"""So few nodes of a trace that guests wait."""


@pytest.mark.parametrize("queue", ["wait", "backfill"])
@pytest.mark.parametrize("name", CROWDED)
def test_guests_wait_alike(name, queue):
    """On a few of the nodes, half of which join when half of the guests have arrived."""
    trace, few = part(name, 300), CROWDED[name]
    nodes = trace.nodes.take(np.linspace(0, len(trace.nodes) - 1, few).astype(int))
    late = float(np.median(trace.guests.arrival_s)) + 0.5
    nodes = replace(nodes, add_s=np.where(np.arange(few) % 2 == 1, late, 0.0))
    assert same(trace, "best-fit", queue=queue, nodes=nodes) >= 40
    assert same(trace, "random", seed=2, queue=queue, nodes=nodes) >= 40


@pytest.mark.parametrize("policy", ["best-fit", "worst-fit", "gpu-packing", "random"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=clusters(most=4, moves=False), guests=guest_lists(), queue=st.sampled_from(QUEUES))
def test_any_trace_places_alike(policy, nodes, guests, queue):
    """Small random worlds with groups, shares, selectors, priorities, deadlines, equal times, lives of no length.

    And the audit is clean.
    """
    trace = Trace("random", guests, nodes)
    same(trace, policy, seed=1, queue=queue)
    played = replay_lifecycle(trace, load(policy), profile=Profile(seed=1), queue=queue)
    assert audit(played.rows, FLOWS) == []


@pytest.mark.parametrize("policy", ["best-fit", "random"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=clusters(), guests=guest_lists(most=12), queue=st.sampled_from(QUEUES))
def test_nodes_join_and_are_drained_alike(policy, nodes, guests, queue):
    """The same guests move to the same nodes, as long as each of them finds room: else a drain is given up."""
    assume(_all_alike(Trace("random", guests, nodes), load(policy), queue, 1) is not None)


def _all_alike(trace: Trace, policy: Policy, queue: str, seed: int) -> Counter[int] | None:
    """Both fidelities place and move alike: how often what happened. None: a drain is given up."""
    placed = replay_trace(trace, policy, settings=Settings(queue=queue, seed=seed))
    happened = Counter(event for event, _, _ in logged(placed))
    if happened[BLOCKED]:
        return None
    played = replay_lifecycle(trace, policy, queue=queue, seed=seed)
    alike(placed, played)
    moved = [(guest, trace.nodes.names[node]) for event, guest, node in logged(placed) if event == MOVED]
    assert sorted(moved) == sorted((one.row, one.target) for one in played.migrations)
    return happened


@lab.policy
def by_threes(free_cpu, free_mem, free_gpu, node, req):
    """What it forbids comes and goes as nodes fill: it tells when somebody was asked for once too often."""
    return -np.inf if (free_cpu - req.cpu) // 500 % 3 == 1 else free_mem


def crowds(policy: Policy, queue: str, seeds: range) -> Counter[int]:
    """Both fidelities place and move alike in worlds where most guests wait: how often what happened."""
    found = (_all_alike(Trace("crowded", *crowded(seed)), policy, queue, seed) for seed in seeds)
    return sum(filter(None, found), Counter())


POLICIES = [load("best-fit"), load("random"), by_threes]


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_crowds_wait_and_move_alike(policy, queue):
    """Everything at the same few moments: departures, joins, drains, the queue, arrivals, deadlines."""
    happened = crowds(policy, queue, range(60))
    assert happened[MOVED] >= 5
    if queue != "drop":
        assert happened[STARTED] >= 100, "those that waited, and were placed"
        assert happened[EXPIRED] >= 50


@pytest.mark.full
@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_more_crowds_wait_and_move_alike(policy, queue):
    crowds(policy, queue, range(60, 400))


def test_a_drain_comes_after_the_joins_of_its_moment_and_goes_by_rows():
    """Whoever arrived first: the first of the trace takes the tightest of the nodes that joined."""
    guests, nodes = small_world([2.0, 1.0], [20.0, 20.0], add_s=[0.0, 6.0, 6.0])
    nodes = replace(nodes, cpu_milli=np.array([4000, 1000, 2000]), drain_s=np.array([6.0, np.inf, np.inf]))
    trace = Trace("two", guests, nodes)
    assert _all_alike(trace, load("best-fit"), "drop", 0)
    played = replay_lifecycle(trace, load("best-fit"))
    assert {one.row: one.target for one in played.migrations} == {0: "n1", 1: "n2"}
    assert played.tasks["vm_migrate"] == {"done": 2}, "at the first try"


def test_migrations_share_a_link_and_stand_still():
    """A dozen guests leave one of five nodes at once, and one leaves it alone."""
    trace = part("generated/azure-like", 60)
    nodes = trace.nodes.take(np.arange(5))
    drained = float(trace.guests.arrival_s.max()) + 60.0
    trace = replace(trace, guests=replace(trace.guests, departure_s=np.full(60, drained + 7200.0)))
    nodes = replace(nodes, drain_s=np.array([drained, *[np.inf] * 4]))
    together = replay_lifecycle(trace, load("worst-fit"), nodes=nodes, profile=Profile(seed=1))
    there = int((together.node == 0).sum())
    assert together.summary()["migrations"]["count"] == there > 10
    assert audit(together.rows, FLOWS) == []
    lone = trace.guests.take(np.flatnonzero(together.node == 0)[:1])
    alone = replay_lifecycle(replace(trace, guests=lone), load("first-fit"), nodes=nodes, profile=Profile(seed=1))
    (one,) = alone.migrations
    assert one.transfer_s > lone.memory_mib[0] / 1_100.0
    assert max(other.transfer_s for other in together.migrations) > 3 * one.transfer_s
    assert 0.0 < one.still_s < 1.0
    assert alone.uptime.down_s.sum() == pytest.approx(one.still_s)
    assert 0.999 < alone.summary()["availability"]["vm"] < 1.0


def test_things_take_their_time():
    trace = part("generated/azure-like", 300)
    played = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1))
    said = played.summary()
    times = said["time_to_running"]["vm"]
    assert 0.3 < times["p50_s"] < times["p99_s"] < 10.0
    assert said["tasks"] == {"done": sum(said["tasks"].values())}
    assert said["placed"] == 300
    again = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1))
    assert played.rows("event") == again.rows("event"), "same seed, same log"
    other = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=2))
    assert played.rows("event") != other.rows("event")


def test_agents_pause_while_they_are_idle():
    """A pause releases nothing: the placements are those of placement fidelity, whose agents never pause."""
    trace = loaded("agents/azure-llm")
    rows = np.arange(60)
    keep = trace.usage.guest < 60
    columns = ("guest", "start_s", "end_s", "cpu_milli", "memory_mib", "phase")
    usage = replace(trace.usage, **{name: getattr(trace.usage, name)[keep] for name in columns})
    trace = replace(trace, guests=trace.guests.take(rows), usage=usage)
    placed = replay_trace(trace, load("best-fit"))
    played = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1))
    assert (placed.run.node == played.node).all()
    tasks = played.summary()["tasks_by_flow"]
    assert tasks["agent_pause"]["done"] > 100
    assert 0 <= tasks["agent_pause"]["done"] - tasks["agent_resume"]["done"] <= 60
    assert tasks["agent_stop"]["done"] == tasks["agent_delete"]["done"] == 60
    assert audit(played.rows, FLOWS) == []


def test_waiting_guests_start_when_something_is_free():
    trace = part("generated/azure-like", 200)
    few = trace.nodes.take([0, 1])
    dropped = replay_lifecycle(trace, load("best-fit"), nodes=few, queue="drop")
    waited = replay_lifecycle(trace, load("best-fit"), nodes=few, queue="backfill")
    assert dropped.summary()["failed"] > 0
    assert dropped.summary()["tasks_by_flow"]["vm_create"]["undone"] == dropped.summary()["failed"]
    assert waited.summary()["placed"] > dropped.summary()["placed"]


@pytest.mark.parametrize("failures", [Failures(), Failures(node_mtbf_s=24 * 3600.0, node_mttr_s=900.0, seed=3)])
def test_nobody_passes_the_head_of_the_queue_when_things_take_time(failures):
    """Nor where nodes fail and guests are recovered between those that wait."""
    trace = part("generated/azure-like", 400)
    few = trace.nodes.take(np.arange(6))
    played = {
        queue: replay_lifecycle(
            trace, load("best-fit"), nodes=few, queue=queue, profile=Profile(seed=1), failures=failures
        )
        for queue in ("wait", "backfill")
    }
    for one in played.values():
        assert audit(one.rows, FLOWS) == []
        assert one.summary()["placed"] == 400
        assert (one.placed_s > trace.guests.arrival_s).sum() > 100
    in_order = np.argsort(trace.guests.arrival_s, kind="stable")
    assert (np.diff(played["wait"].placed_s[in_order]) >= 0.0).all()
    assert (np.diff(played["backfill"].placed_s[in_order]) < 0.0).any()


def test_what_is_not_played_is_said():
    trace = part("generated/azure-like", 5)
    with pytest.raises(InputError, match="unknown queue mode 'first'; known: drop, wait, backfill"):
        replay_lifecycle(trace, load("best-fit"), queue="first")


def test_from_the_command_line(gpve, tmp_path):
    """The files of both fidelities say the same where nothing takes time; what is wrong gets one sentence."""
    trace = tmp_path / "few.csv"
    rows = [
        f"vm-{i},vm,{i},{i + 9},{1000 * (1 + i % 3)},2048,{i % 2},{500 * (i % 2)},{i % 4 - 1},{i + 9 * 9 ** (i % 2)}"
        for i in range(40)
    ]
    header = "id,kind,arrival_s,departure_s,cpu_milli,memory_mib,gpu_count,gpu_milli,priority,deadline_s"
    trace.write_text("\n".join([header, *rows]) + "\n")
    nodes = tmp_path / "nodes.csv"
    nodes.write_text("name,cpu_milli,memory_mib,gpu_count,gpu_model\nn0,8000,16384,2,A10\nn1,4000,8192,1,A10\n")
    at = [str(trace), "--nodes", str(nodes), "--policy", "gpu-packing", "--no-plots"]
    files = set()
    for queue in QUEUES:
        assert gpve("replay", *at, "--queue", queue, "--out", str(tmp_path / "one")).code == 0
        lived = ["--fidelity", "lifecycle", "--durations", "none", "--queue", queue, "--out", str(tmp_path / "two")]
        told = gpve("replay", *at, *lived)
        assert told.code == 0, told.err
        files |= {(tmp_path / place / "placements.csv").read_bytes() for place in ("one", "two")}
        said, other = (json.loads((tmp_path / place / "summary.json").read_text()) for place in ("two", "one"))
        assert all(said[name] == other[name] for name in ("placed", "failed", "waiting"))
    assert len(files) == 3, "one of each queue mode"
    log = parquet.read_table(tmp_path / "two" / "log.parquet")
    assert len(log) == said["log_rows"]
    assert (
        json.loads(gpve("replay", *at, "--fidelity", "lifecycle", "--json").out)["time_to_running"]["vm"]["p50_s"] > 0.1
    )
    for options, says in (
        (["--fidelity", "perfect"], "no fidelity 'perfect'; say placement or lifecycle"),
        (["--fidelity", "lifecycle", "--durations", "long"], "no durations 'long'; say default or none"),
        (["--fidelity", "lifecycle", "--policy", "or-tools"], "placement alone"),
    ):
        told = gpve("replay", *at, *options)
        assert told.code == 2
        assert says in told.err


def test_nodes_fail_and_guests_are_restarted_elsewhere():
    """Audited at the end, the same twice, and better with high availability than without."""
    trace = part("generated/azure-like", 300)
    failing = Failures(node_mtbf_s=24 * 3600.0, node_mttr_s=900.0, seed=3)
    with_ha = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1), failures=failing)
    without = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1), failures=replace(failing, ha=False))
    said, other = with_ha.summary(), without.summary()
    assert said["node_failures"] == other["node_failures"] > 20
    assert said["tasks_by_flow"]["vm_recover"]["done"] > 0
    assert "vm_recover" not in other["tasks_by_flow"]
    assert other["tasks_by_flow"]["vm_start"]["done"] > 0
    assert 0.9 < other["availability"]["vm"] < said["availability"]["vm"] < 1.0
    for played in (with_ha, without):
        assert audit(played.rows, FLOWS) == []
        assert {row["status"] for row in played.rows("task")} <= {"done", "undone"}
    again = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1), failures=failing)
    assert again.table("event").equals(with_ha.table("event"))


def test_a_guest_that_nothing_befalls_is_always_up():
    played = replay_lifecycle(part("generated/azure-like", 50), load("best-fit"), profile=Profile(seed=1))
    assert played.summary()["availability"] == {"vm": 1.0}


def test_agents_crash_and_their_node_starts_them_again():
    trace = loaded("agents/azure-llm")
    trace = replace(trace, guests=trace.guests.take(np.arange(60)), usage=None)
    calm = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1))
    played = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1), failures=Failures(agent_mtbf_s=60.0))
    said = played.summary()
    assert said["restarts"] > 10
    assert 0.0 < said["availability"]["agent"] < 1.0
    assert said["tasks"] == calm.summary()["tasks"], "its node does that, nobody else hears of it"


def test_failures_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="node_mtbf_s"):
        Failures(node_mtbf_s=0.0)
