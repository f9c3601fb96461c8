"""Lifecycle fidelity: the task engine places as the compiled loop does, and takes the time that its steps take."""

import json
from dataclasses import replace

import gpve_sim as lab
import numpy as np
import pytest
from gpve_sim.driver import Settings, replay_trace
from gpve_sim.kernel.tables import A_LOG, BLOCKED, MOVED
from gpve_sim.policies import load
from gpve_sim.trace import Trace
from gpve_sim.world.lifecycle import replay_lifecycle
from gpve_sim.world.outages import Failures
from gpve_sim.world.profile import Profile
from hypothesis import HealthCheck, assume, given, settings
from pyarrow import parquet

from gpve.model.errors import InputError
from gpve.tasks.audit import audit
from gpve.tasks.flows import FLOWS
from tests.lab.traces_here import loaded
from tests.worlds import clusters, guest_lists

REAL = ["openb/default", "openb/gpushare40", "azure-vm-2017/dev", "alibaba-dlrm-2025/default", "agents/azure-llm"]
REAL += ["opendc-surf-week/default"]


def part(name: str, guests: int) -> Trace:
    trace = lab.load(name) if name.startswith("generated/") else loaded(name)
    return replace(trace, guests=trace.guests.take(np.arange(min(guests, len(trace.guests)))), usage=None)


def same(trace: Trace, policy: str, seed: int = 0) -> None:
    placed = replay_trace(trace, load(policy), settings=Settings(seed=seed))
    played = replay_lifecycle(trace, load(policy), seed=seed)
    assert (placed.run.node == played.node).all()
    if len(placed.run.devices):
        assert (placed.run.devices == played.devices).all()


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


@pytest.mark.parametrize("policy", ["best-fit", "worst-fit", "gpu-packing", "random"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=clusters(moves=False), guests=guest_lists())
def test_any_trace_places_alike(policy, nodes, guests):
    """Small random worlds with groups, shares, selectors, equal times, lives of no length; and the audit is clean."""
    trace = Trace("random", guests, nodes)
    same(trace, policy, seed=1)
    played = replay_lifecycle(trace, load(policy), profile=Profile(seed=1))
    assert audit(played.rows, FLOWS) == []


@pytest.mark.parametrize("policy", ["best-fit", "random"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=clusters(), guests=guest_lists(most=12))
def test_nodes_join_and_are_drained_alike(policy, nodes, guests):
    """The same guests move to the same nodes, as long as each of them finds room: else a drain is given up."""
    trace = Trace("random", guests, nodes)
    run = replay_trace(trace, load(policy), settings=Settings(seed=1)).run
    log = run.log[: run.at[A_LOG]]
    assume(not (log[:, 3] == BLOCKED).any())
    played = replay_lifecycle(trace, load(policy), seed=1)
    assert (run.node == played.node).all()
    moved = [(int(guest), nodes.names[int(node)]) for _, guest, node, event, _ in log if event == MOVED]
    assert moved == [(one.row, one.target) for one in played.migrations]


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


def test_what_is_not_played_is_said():
    trace = part("generated/azure-like", 5)
    with pytest.raises(InputError, match="say drop or backfill"):
        replay_lifecycle(trace, load("best-fit"), queue="wait")


def test_from_the_command_line(gpve, tmp_path):
    """The files of both fidelities say the same where nothing takes time; what is wrong gets one sentence."""
    trace = tmp_path / "few.csv"
    rows = [f"vm-{i},vm,{i},{i + 5},{1000 * (1 + i % 3)},2048,{i % 2},{500 * (i % 2)}" for i in range(40)]
    header = "id,kind,arrival_s,departure_s,cpu_milli,memory_mib,gpu_count,gpu_milli"
    trace.write_text("\n".join([header, *rows]) + "\n")
    nodes = tmp_path / "nodes.csv"
    nodes.write_text("name,cpu_milli,memory_mib,gpu_count,gpu_model\nn0,8000,16384,2,A10\nn1,4000,8192,1,A10\n")
    at = [str(trace), "--nodes", str(nodes), "--policy", "gpu-packing", "--no-plots"]
    assert gpve("replay", *at, "--out", str(tmp_path / "one")).code == 0
    told = gpve("replay", *at, "--fidelity", "lifecycle", "--durations", "none", "--out", str(tmp_path / "two"))
    assert told.code == 0, told.err
    assert (tmp_path / "one" / "placements.csv").read_bytes() == (tmp_path / "two" / "placements.csv").read_bytes()
    said = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert said["placed"] == json.loads((tmp_path / "one" / "summary.json").read_text())["placed"]
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
