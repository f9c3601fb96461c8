"""The compiled replay makes the very decisions of the plain reference: every policy, every feature."""

from dataclasses import replace

import numpy as np
import pytest
from gpve_sim.driver import Settings, replay_trace
from gpve_sim.kernel import tables as t
from gpve_sim.results import summary, timeline
from gpve_sim.trace import Trace
from gpve_sim.workload import NodeEvents, node_events
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpve.scheduler.cluster import INDEX_BYTES
from gpve.scheduler.policy import NAMES, load
from tests.lab.loads import load_of_size, small_world
from tests.reference import QUANTITIES, Reference, fragment
from tests.worlds import clusters, guest_lists

MANY = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def compare(guests, nodes, policy, queue="drop", departs=True, seed=0, events=(), index_bytes=INDEX_BYTES):
    """Replay both ways; everything that a user can see must agree."""
    given_events = NodeEvents.of(list(events))
    replayed = replay_trace(
        Trace("random", guests, nodes),
        load(policy),
        events=given_events,
        settings=Settings(queue=queue, departures=departs, seed=seed, index_bytes=index_bytes),
    )
    merged = NodeEvents.of(node_events(nodes).rows() + given_events.rows()).rows()
    plain = Reference(guests, nodes, policy, queue, departs, seed, merged).run()
    first = [g.first for g in plain.guests]
    run = replayed.run
    assert run.node.tolist() == [-1 if f is None else f[0] for f in first]
    if len(run.devices):
        bits = [0 if f is None else sum(1 << d for d in f[1]) for f in first]
        assert run.devices.tolist() == bits
    reasons = np.zeros(t.REASONS, dtype=int)
    for g in plain.guests:
        if g.reason is not None:
            reasons[g.reason] += 1
    assert run.reasons.tolist() == reasons.tolist()
    said = summary(replayed)
    assert said["placed"] + said["failed"] + said["waiting"] == said["arrivals"] == len(guests)
    assert (said["migrated"], said["lost"]) == (plain.migrated, plain.lost)
    # What is left on the nodes, and what was added up on the way.
    state = replayed.state
    for i, n in enumerate(plain.nodes):
        assert (state.free_cpu[i], state.free_mem[i], state.nodes[i]["guests"]) == (
            n.free_cpu,
            n.free_mem,
            len(n.guests),
        )
        assert state.free_gpu[i, : n.gpus].tolist() == n.free_gpu
    assert run.now[t.CPU] == sum(n.cpu - n.free_cpu for n in plain.nodes)
    assert run.now[t.GPU] == sum(sum(1000 - x for x in n.free_gpu) for n in plain.nodes)
    assert run.now[t.ACTIVE] == sum(bool(n.guests) for n in plain.nodes)
    expected = sum(fragment(n.free_cpu, n.free_gpu, n.model, plain.typical) for n in plain.nodes if n.open)
    if len(run.devices):
        assert run.now[t.FRAGMENTATION] == pytest.approx(expected, abs=1e-6)
    assert int(state.scalars[2]) == len(
        {(g.group, g.node, "in") for g in plain.guests if g.node >= 0 and _tracked(replayed, g.group)}
        | {(a, g.node, "out") for g in plain.guests if g.node >= 0 for a in g.avoid}
    )
    assert timeline(replayed).num_rows >= 1
    places = dict(zip(QUANTITIES, (*range(10), t.STRANDED, t.STRANDED + 1, t.STRANDED + 2), strict=True))
    for name, place in places.items():
        assert run.integral[place] == pytest.approx(plain.integral[name], rel=1e-9, abs=1e-3), name
        assert run.peak[place] == pytest.approx(plain.peak[name], rel=1e-9, abs=1e-3), name
    return replayed


def _tracked(replayed, group):
    return group >= 0 and bool((replayed.requests.rules["group"] == group).any())


@pytest.mark.parametrize("queue", ["wait", "backfill"])
@pytest.mark.parametrize("guests", [1, 3])
def test_node_after_node_fails(queue, guests):
    """Guests that start late and lose one node after the other: the heap of their ends stays as long as it is."""
    trace, nodes = small_world([0.0] * guests, [50.0 + i for i in range(guests)], add_s=[3.0] * 12)
    failures = [(4.0 + i, t.FAIL, i) for i in range(11)]
    replayed = compare(trace, nodes, "first-fit", queue, events=failures)
    assert replayed.run.log[: replayed.run.at[t.A_LOG], 3].tolist().count(t.EVICTED) == 11 * guests


def test_guests_that_end_together_leave_in_the_order_of_the_trace():
    """One started late (its end was moved), one did not: what lies between their departures counts in the peaks."""
    trace, nodes = small_world([0.0, 4.0], [5.0, 8.0], gpu_milli=[300, 700], add_s=[3.0])
    replayed = compare(trace, nodes, "first-fit", "wait")
    assert replayed.run.peak[t.FRAGMENTATION] == pytest.approx(0.5 * 300)


@pytest.mark.parametrize("queue", ["drop", "backfill"])
@pytest.mark.parametrize(
    ("cpu", "memory", "gpu", "reason"),
    [
        ((3999, 2, 1), (0, 0, 0), (0, 0, 0), "cpu"),
        ((0, 0, 0), (4095, 2, 1), (0, 0, 0), "memory"),
        ((0, 0, 0), (0, 0, 0), (999, 2, 1), "gpu"),
        ((1, 4001, 3999), (0, 0, 0), (0, 0, 0), "too_large"),
        ((0, 0, 0), (1, 4097, 4095), (0, 0, 0), "too_large"),
    ],
)
def test_fits_to_the_last_unit(cpu, memory, gpu, reason, queue):
    """The second asks for one more than is left, the third for just that; once the first has gone the second fits too,
    if the node has as much at all."""
    trace, nodes = small_world([0.0, 1.0, 2.0], [9.0] * 3, add_s=[0.0], gpu_milli=gpu)
    trace = replace(trace, cpu_milli=np.array(cpu), memory_mib=np.array(memory))
    replayed = compare(trace, nodes, "best-fit", queue)
    waits = queue == "backfill"
    fits_later = waits and reason != "too_large"
    assert replayed.run.node.tolist() == [0, 0 if fits_later else -1, 0]
    assert summary(replayed)["failed_by_reason"] == ({} if waits else {reason: 1})


@pytest.mark.parametrize("policy", NAMES)
@MANY
@given(data=st.data())
def test_drop(policy, data):
    """Arrivals and departures; what does not fit is dropped."""
    gpus = data.draw(st.booleans())
    compare(
        data.draw(guest_lists(gpus=gpus)), data.draw(clusters(gpus=gpus)), policy,
        departs=data.draw(st.booleans()), seed=data.draw(st.integers(0, 2**31)),
    )  # fmt: skip


@pytest.mark.parametrize("queue", ["wait", "backfill"])
@MANY
@given(data=st.data(), policy=st.sampled_from(NAMES))
def test_queue(queue, data, policy):
    """Priorities, deadlines, first come and backfill."""
    compare(
        data.draw(guest_lists()),
        data.draw(clusters(most=3)),
        policy,
        queue,
        seed=data.draw(st.integers(0, 99)),
    )


@MANY
@given(data=st.data(), policy=st.sampled_from(NAMES), queue=st.sampled_from(["drop", "wait", "backfill"]))
def test_node_events(data, policy, queue):
    """Nodes join, are drained, fail and return while guests run."""
    nodes = data.draw(clusters(most=5))
    event = st.tuples(
        st.integers(0, 14).map(float),
        st.sampled_from([t.ADD, t.DRAIN, t.FAIL]),
        st.integers(0, len(nodes) - 1),
    )
    compare(data.draw(guest_lists()), nodes, policy, queue, events=data.draw(st.lists(event, max_size=6)))


@MANY
@given(data=st.data(), policy=st.sampled_from(NAMES), queue=st.sampled_from(["drop", "backfill"]))
def test_more_classes_than_trees(data, policy, queue):
    """Sizes without number: most request classes get no tree, some lose theirs; the answers stay."""
    guests = data.draw(guest_lists(continuous=data.draw(st.booleans())))
    compare(guests, data.draw(clusters(most=20)), policy, queue, index_bytes=0)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@example(nodes=300, seed=1)
@given(nodes=st.integers(17, 600), seed=st.integers(0, 2**31))
def test_wide(nodes, seed):
    """Enough nodes for three levels of the index, all policies on one load."""
    rng = np.random.default_rng(seed)
    guests, cluster = load_of_size(rng, guests=60, nodes=nodes)
    for policy in ("best-fit", "worst-fit", "random", "gpu-packing", "fgd"):
        compare(guests, cluster, policy, seed=seed)


@pytest.mark.full
@pytest.mark.parametrize("queue", ["drop", "wait", "backfill"])
@pytest.mark.parametrize("policy", NAMES)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_everything_at_once(policy, queue, data):
    """All features together, many more worlds: queues, node events, groups, few trees."""
    nodes = data.draw(clusters(most=24))
    event = st.tuples(
        st.integers(0, 14).map(float), st.sampled_from([t.ADD, t.DRAIN, t.FAIL]), st.integers(0, len(nodes) - 1)
    )
    guests = data.draw(guest_lists(continuous=data.draw(st.booleans())))
    events = data.draw(st.lists(event, max_size=8))
    compare(guests, nodes, policy, queue, events=events, index_bytes=data.draw(st.sampled_from([0, INDEX_BYTES])))
