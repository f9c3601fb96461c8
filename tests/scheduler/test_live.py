"""Decisions one by one are those of a replay, and claims can be given back."""

from dataclasses import replace

import numpy as np
import pytest
from gpve_sim.driver import Settings, replay_trace
from gpve_sim.trace import Trace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.model import InputError, Reason
from gpve.scheduler.explain import explain
from gpve.scheduler.fragmentation import typical_requests
from gpve.scheduler.live import Claim, Demand, LiveCluster
from gpve.scheduler.policy import NAMES, load, policy
from gpve.scheduler.requests import ANYWHERE, Terms
from tests.worlds import clusters, guest_lists

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def demands(guests):
    """One `Demand` per guest."""
    out = []
    for g in range(len(guests)):
        model = -1 if guests.gpu_models is None else guests.gpu_models[g]
        models = None if model < 0 else guests.gpu_model_sets[model]
        selector = None if guests.selector is None or guests.selector[g] < 0 else guests.selectors[0]
        tolerations = None if guests.tolerations is None or guests.tolerations[g] < 0 else guests.toleration_sets[0]
        gpu = (int(guests.gpu_count[g]), int(guests.gpu_milli[g]))
        out.append(
            Demand(int(guests.cpu_milli[g]), int(guests.memory_mib[g]), *gpu, Terms(models, selector, tolerations))
        )
    return out


@QUICK
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_like_a_replay(data, name):
    """Without departures, node by node and device by device."""
    guests, nodes = data.draw(guest_lists()), data.draw(clusters(moves=False))
    order = np.argsort(guests.arrival_s, kind="stable")
    guests = guests.take(order)
    ungrouped = replace(guests, group=None, max_per_node=None, anti_affinity=None)
    replayed = replay_trace(Trace("random", ungrouped, nodes), load(name), settings=Settings(departures=False))
    typical = typical_requests(ungrouped, nodes.gpu_model_names)
    live = LiveCluster(nodes, load(name), typical=typical)
    for g, demand in enumerate(demands(ungrouped)):
        answer = live.place(demand)
        if isinstance(answer, Claim):
            assert answer.node == replayed.run.node[g]
            assert not len(replayed.run.devices) or answer.devices == replayed.run.devices[g]
        else:
            assert replayed.run.node[g] == -1


@QUICK
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_given_back(data, name):
    """Claims released in any order leave the cluster as it was, policy's state included."""
    nodes = data.draw(clusters(moves=False))
    live = LiveCluster(nodes, load(name))
    before = [column.copy() for column in (live.state.free_cpu, live.state.free_mem, live.state.free_gpu)]
    claims = [c for d in demands(data.draw(guest_lists())) if isinstance(c := live.place(d), Claim)]
    for claim in data.draw(st.permutations(claims)):
        live.release(claim)
    after = (live.state.free_cpu, live.state.free_mem, live.state.free_gpu)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert (live.state.nodes["guests"] == 0).all()
    if name == "gpu-clustering":
        assert (live.state.nodes["state"] == 0).all()


def test_closed_nodes_and_reasons():
    """A closed node takes nothing; reasons are those of the nearest miss; explain counts them."""
    nodes = clusters_of_two()
    live = LiveCluster(nodes, load("first-fit"))
    assert live.place(Demand(9000, 100)) is Reason.TOO_LARGE
    live.set_open(0, False)
    answer = live.place(Demand(1000, 100, terms=ANYWHERE))
    assert isinstance(answer, Claim)
    assert answer.node == 1
    assert live.place(Demand(7500, 100)) is Reason.CPU
    found = explain(live.state, live.policy, 2, -1)
    assert found.counts == {Reason.UNSCHEDULABLE: 1, Reason.CPU: 1}
    assert found.nearest is not None
    assert (found.nearest.node, found.nearest.cpu_milli, found.nearest.memory_mib) == (1, 500, 0)
    live.set_open(1, False)
    assert live.place(Demand(1, 1)) is Reason.UNSCHEDULABLE


def test_a_bad_score_is_told():
    """And the cluster goes on."""

    @policy("sometimes-nan")
    def sometimes(free_cpu, free_mem, free_gpu, node, req):
        return free_cpu / (req.cpu - 500) * 0.0

    live = LiveCluster(clusters_of_two(), sometimes)
    before = live.state.free_cpu.copy()
    with pytest.raises(InputError, match="gave no score on node"):
        live.place(Demand(500, 1))
    assert (live.state.free_cpu == before).all(), "nothing is claimed"
    assert isinstance(live.place(Demand(600, 1)), Claim)


def test_decisions_on_one_node_and_what_others_took():
    """What a server needs beside `place`: one node alone, and the accounts of other servers."""
    live = LiveCluster(clusters_of_two(), load("best-fit"))
    assert live.place(Demand(1000, 1), only=1).node == 1
    live.observe(0, 500, 1024, [], True)
    live.observe(1, 0, 0, [], True)
    assert live.place(Demand(600, 1)) is Reason.CPU
    assert live.reasons(Demand(600, 1)) == {Reason.CPU: 1, Reason.SEVERAL: 1}
    assert live.place(Demand(500, 1), only=1) is Reason.SEVERAL
    live.observe(1, 8000, 8192, [], False)
    assert live.place(Demand(600, 1), only=1) is Reason.UNSCHEDULABLE
    assert live.place(Demand(500, 1)).node == 0


def clusters_of_two():
    """Two nodes of eight cores."""
    from gpve_sim.inventory import parse_inventory

    return parse_inventory("2x(8c,8G)")
