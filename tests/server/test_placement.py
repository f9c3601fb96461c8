"""Where a live cluster puts guests: nodes that run them, by the policy of their project."""

from pathlib import Path

import pytest
from gpve_sim.live import read, redecide

from gpve.client import Client
from tests.server.cluster import Cluster, done, refused, until

SMALL = {"cpu_milli": 300, "memory_mib": 100}


@pytest.mark.usefixtures("runtime")
def test_a_guest_goes_where_its_kind_runs(cluster: Cluster) -> None:
    """A node without an executor for VMs gets none, and says so; agents are at home there."""
    cluster.server("s")
    cluster.node("real", ("--cpu", "4000", "--memory", "2048", "--no-simulated"), runtime=True)
    client = cluster.client()
    program = {"argv": ["/bin/sh", "-c", "sleep 1000"]}
    done(client, client.create("agent", {**SMALL, "name": "a", "program": program}))
    assert client.get("agent", "a").node == "real"
    waiting = client.create("vm", {**SMALL, "name": "v"})
    until(lambda: client.task(waiting.id).status == "waiting", 10.0)
    vm = client.get("vm", "v")
    told = client.explain(vm.id)
    assert told["nodes"] == {"the node runs no vms": 1}
    assert told["nearest"] == "node real lacks least: the node runs no vms"
    cluster.node("other", ("--cpu", "4000", "--memory", "2048"))
    done(client, waiting)
    assert client.get("vm", vm.id).node == "other"
    assert client.audit() == []


@pytest.mark.usefixtures("runtime")
def test_agents_are_simulated_nowhere_if_some_node_runs_them(cluster: Cluster) -> None:
    cluster.server("s")
    cluster.node("simulates", ("--cpu", "8000", "--memory", "8192"))
    client = cluster.client()
    program = {"argv": ["/bin/sh", "-c", "sleep 1000"]}
    done(client, client.create("agent", {**SMALL, "name": "before", "program": program}))
    assert client.get("agent", "before").node == "simulates", "none does it for real yet"
    cluster.node("real", ("--cpu", "500", "--memory", "2048"), runtime=True)
    done(client, client.create("agent", {**SMALL, "name": "a", "program": program}))
    assert client.get("agent", "a").node == "real"
    waiting = client.create("agent", {**SMALL, "name": "b", "program": program})
    until(lambda: client.task(waiting.id).status == "waiting", 10.0)
    assert "1 node: the node runs no agents, or only simulates them" in str(client.task(waiting.id).reason)
    done(client, client.act("agent", "stop", client.get("agent", "a").id))
    done(client, waiting)
    assert client.get("agent", "b").node == "real"
    done(client, client.create("vm", {**SMALL, "name": "v"}))
    assert client.audit() == []


def test_a_closed_node_takes_none_and_a_failed_drain_leaves_it_closed(cluster: Cluster, command) -> None:
    cluster.server("s")
    cluster.node("a", ("--cpu", "1000", "--memory", "1024"))
    client = cluster.client()
    done(client, client.create("vm", {**SMALL, "name": "v"}))
    assert command("node", "close", "a", "--wait").code == 0
    assert not client.node("a").open
    task, stay = client.drain("a")
    assert task is not None
    assert stay == ["vm 100 (running): none of 0 open nodes has room beside the others that move"]
    ended = client.wait(task)
    assert ended.status == "undone"
    assert "no node fits: there is none to choose from" in str(ended.reason)
    assert not client.node("a").open
    done(client, client.open_node("a"))
    assert client.node("a").open


def test_a_node_that_could_run_nothing_does_not_begin(cluster: Cluster) -> None:
    cluster.server("s")
    with pytest.raises(AssertionError, match="no guest could run here"):
        cluster.node("idle", ("--no-simulated",))
    assert list(cluster.client().nodes()) == []


def test_each_project_has_its_policy(cluster: Cluster, tmp_path: Path, command) -> None:
    """Two projects on the same nodes: one packs, one spreads; nobody overbooks, and all can be repeated."""
    cluster.server("s")
    for name in ("a", "b", "c"):
        cluster.node(name, ("--cpu", "8000", "--memory", "8192"))
    client = cluster.client()
    with refused(422, "bad-field", "no 'tetris'"):
        client.choose_policy("tetris")
    with refused(422, "bad-field"):
        client.choose_policy("fgd", "Not A Project")
    assert client.choose_policy("worst-fit", "wide")["projects"] == {"wide": "worst-fit"}
    tasks = []
    for at in range(18):
        for project in ("dense", "wide"):
            tasks.append(client.create("vm", {**SMALL, "name": f"{project}{at}"}, project=project))
    for task in tasks:
        done(client, task)
    assert _counts(client, "dense") == [18], "best-fit fills one node"
    assert _counts(client, "wide") == [9, 9], "worst-fit takes the two nodes that have more left, in turn"
    assert client.explain(client.get("vm", "wide0").id)["policy"] == "worst-fit"
    assert client.explain(client.get("vm", "dense0").id)["policy"] == "best-fit"
    assert client.audit() == []
    _decide_again(tmp_path, command)
    # The cluster's own; and a project goes back to it.
    assert client.choose_policy("first-fit")["cluster"] == "first-fit"
    assert client.choose_policy(None, "wide") == {**client.policies(), "projects": {}}
    assert client.explain(client.get("vm", "wide0").id)["policy"] == "first-fit"
    assert command("policy", "set", "fgd", "--project", "lab").code == 0
    assert "lab" in command("policy", "list").out
    assert command("policy", "set", "none", "--project", "lab").code == 0
    assert client.policies()["projects"] == {}
    assert command("policy", "set", "tetris").code == 2


def test_another_server_follows(cluster: Cluster, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/gpve.db"
    cluster.server("s1", address)
    cluster.server("s2", address)
    cluster.node("a", ("--cpu", "8000", "--memory", "8192"))
    one, two = cluster.client("s1"), cluster.client("s2")
    done(one, one.create("vm", {**SMALL, "name": "v"}))
    one.choose_policy("random", "default")
    vm = two.get("vm", "v").id
    until(lambda: two.explain(vm)["policy"] == "random", 60.0, "the other server uses it as well")


def _counts(client: Client, project: str) -> list[int]:
    """How many guests of a project are on each node that has any, the fewest first."""
    at = [guest.node for guest in client.list(project=project)]
    return sorted(at.count(node) for node in set(at))


def _decide_again(tmp_path: Path, command) -> None:
    file = tmp_path / "cluster.jsonl"
    assert command("dump", str(file)).code == 0
    told = redecide(read(file))
    assert (told.differing, told.findings, told.skipped) == ([], [], 0)
    assert told.decisions >= 36
