"""``gpve task`` and ``gpve audit`` on a real cluster: a database, engine and nodes as processes."""

import json
from pathlib import Path

import pytest

from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Work
from gpve.tasks.submit import request, submitting
from tests.conftest import Told
from tests.tasks.cluster import Cluster

BODY = {"name": "web", "cpu_milli": 1000, "memory_mib": 512, "networks": ["lan"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("cluster")
    made = Cluster(f"sqlite:///{directory}/gpve.db", directory, cores=16)
    made.start_engine("one")
    huge = {**BODY, "cpu_milli": 10**7}
    for name, body in (("web", BODY), ("huge", huge), ("doomed", {**BODY, "node": "b"})):
        (answer,) = made.store.transact([submitting(request(FLOWS, "vm_create", {**body, "name": name}))])
        assert answer["id"]
    yield made
    made.stop()


def settle(cluster: Cluster, number: int, status: str) -> None:
    import time

    for _ in range(200):
        if cluster.store.rows("task", id=number)[0]["status"] == status:
            return
        time.sleep(0.05)
    raise AssertionError(cluster.store.rows("task", id=number))


def test_a_task_from_list_to_end(cluster, gpve, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    at = ["--database", cluster.address]
    told: Told = gpve("task", "watch", "1", *at)
    assert told.code == 0
    assert "started    volumes" in told.out
    assert told.out.rstrip().splitlines()[-1].endswith('{"outcome":"done"}')
    settle(cluster, 2, "waiting")
    listed = json.loads(gpve("task", "list", *at, "--json").out)
    assert [(row["id"], row["status"]) for row in listed] == [(3, "done"), (2, "waiting"), (1, "done")]
    shown = gpve("task", "list", *at, "--status", "waiting").out
    assert "larger than the whole node" in shown
    assert json.loads(gpve("task", "list", *at, "--json", "--limit", "1").out)[0]["id"] == 3
    log = gpve("task", "show", "2", *at).out
    assert "waiting" in log
    assert "guest/101" in log
    document = json.loads(gpve("task", "show", "2", *at, "--json").out)
    assert [event["kind"] for event in document["events"]] == ["submitted", "claimed", "began", "waiting"]
    assert gpve("audit", *at, "--sockets", str(cluster.directory)).out == "nothing is wrong\n"
    told = gpve("task", "cancel", "2", "--reason", "too large", *at)
    assert (told.code, told.err) == (0, "")
    told = gpve("task", "watch", "2", *at)
    assert told.code == 1
    assert "cancelled: too large" in told.out
    assert gpve("audit", *at, "--sockets", str(cluster.directory), "--json").out == "[]\n"


def test_what_cannot_be_gets_one_sentence(cluster, gpve, tmp_path: Path):
    at = ["--database", cluster.address]
    settle(cluster, 1, "done")
    for arguments, says in (
        (["task", "cancel", "1", *at], "cancel task 1: not while it is done; allowed now: nothing"),
        (["task", "resume", "1", *at], "resume task 1: not while it is done; allowed now: cancel it, wait for its end"),
        (["task", "show", "99", *at], "no task 99; gpve task list shows them"),
        (["task", "watch", "99", *at], "no task 99; gpve task list shows them"),
        (["task", "list", "--database", f"sqlite:///{tmp_path}/none.db"], "there is no database"),
        (["task", "list", "--database", "postgresql://x/y"], "SQLite or MySQL"),
        (["audit", *at, "--sockets", str(tmp_path)], f"no node answers in {tmp_path}"),
    ):
        told = gpve(*arguments)
        assert told.code == 2
        assert says in told.err
        assert told.err.count("\n") == 1
    (tmp_path / "empty.db").touch()
    told = gpve("audit", "--database", f"sqlite:///{tmp_path}/empty.db")
    assert "has schema none" in told.err


def test_audit_finds_what_somebody_altered_by_hand(cluster, gpve):
    at = ["--database", cluster.address]
    settle(cluster, 1, "done")
    node = cluster.store.rows("node", name="c")[0]

    def alter(tx):
        tx.put("node", {**tx.get("node", "c"), "used_cpu_milli": node["used_cpu_milli"] + 5})

    cluster.store.transact([Work(alter)])
    told = gpve("audit", *at)
    assert told.code == 1
    assert told.out.startswith(f"node c counts [{node['used_cpu_milli'] + 5}, ")
    assert told.out.endswith("1 findings\n")
    cluster.store.transact([Work(lambda tx: tx.put("node", node))])
    assert gpve("audit", *at).code == 0


def test_a_log_of_a_newer_version_is_shown_as_it_is(cluster, gpve):
    at = ["--database", cluster.address]
    settle(cluster, 1, "done")

    def from_the_future(tx):
        tx.put("task", {**tx.get("task", 1), "id": 77, "version": 9, "status": "pondering", "seq": 1})
        event = {"task": 77, "seq": 0, "kind": "transmogrified", "step": "warp", "at": 0.0, "epoch": 1}
        tx.put("event", {**event, "data": '{"into":"tiger"}'})

    cluster.store.transact([Work(from_the_future)])
    told = gpve("task", "show", "77", *at)
    assert told.code == 0
    assert "version 9" in told.out
    assert '1970-01-01 00:00:00  transmogrified warp         {"into":"tiger"}' in told.out
    assert gpve("audit", *at).out == "nothing is wrong\n"
    cluster.store.transact([Work(lambda tx: tx.delete("task", 77)), Work(lambda tx: tx.delete("event", 77, 0))])
