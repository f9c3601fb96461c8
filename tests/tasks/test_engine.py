"""The live engine as a thread: submissions answered, defects survived, the end orderly."""

from pathlib import Path
from typing import Any

import pytest
from gpve_sim.world.trial import node_row

from gpve.engine.engine import Engine
from gpve.engine.sockets import SocketNodes
from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.errors import Forbidden
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Work
from gpve.tasks.state import Status
from gpve.tasks.submit import request
from gpve.tasks.worker import Rules
from tests.tasks.cluster import NAMES, Cluster
from tests.tasks.worlds import placer

BODY = {"name": "web", "cpu_milli": 1000, "memory_mib": 512}


@pytest.fixture
def cluster(tmp_path: Path):
    made = Cluster(f"sqlite:///{tmp_path}/gpve.db", tmp_path, cores=16)
    yield made
    made.stop()


def engine_of(cluster: Cluster, decider: Any) -> Engine:
    sockets = SocketNodes({name: cluster.directory / f"{name}.sock" for name in NAMES})
    return Engine("one", cluster.store, sockets, decider, FLOWS, Rules(lease_s=5.0, sweep_s=0.2))


def test_submissions_are_answered_and_refused(cluster):
    engine = engine_of(cluster, placer())
    engine.start()
    try:
        wish = request(FLOWS, "vm_create", BODY, key="k")
        assert engine.run(wish).result(30) is Status.DONE
        assert engine.submit(wish).result(30)["id"] == 1
        with pytest.raises(Forbidden, match="the name of guest 100"):
            engine.submit(request(FLOWS, "vm_create", BODY)).result(30)
    finally:
        engine.stop()
    assert cluster.store.rows("engine") == [], "who ends in order gives up its lease at once"
    assert cluster.findings() == []


def test_a_policy_that_raises_does_not_end_the_engine(cluster):
    good = placer()

    class Moody:
        left = 3

        def decide(self, questions, nodes):
            if self.left:
                self.left -= 1
                raise ZeroDivisionError("a defect of a policy")
            return good.decide(questions, nodes)

    engine = engine_of(cluster, Moody())
    engine.start()
    try:
        row = engine.submit(request(FLOWS, "vm_create", BODY)).result(30)
        cluster.wait(30)
    finally:
        engine.stop()
    (task,) = cluster.store.rows("task", id=row["id"])
    assert task["status"] == "done"
    assert task["epoch"] == 4, "claimed anew after each defect"
    assert cluster.findings() == []


def test_an_engine_that_stops_leaves_its_tasks_to_others(cluster):
    first = engine_of(cluster, placer())
    first.start()
    cluster.kill("nodes")
    row = first.submit(request(FLOWS, "vm_create", BODY)).result(30)
    first.stop()
    cluster.start("nodes", "stub_node.py", str(cluster.directory), *NAMES)
    second = engine_of(cluster, placer())
    second.start()
    try:
        cluster.wait(30)
    finally:
        second.stop()
    assert cluster.store.rows("task", id=row["id"])[0]["status"] == "done"
    assert cluster.findings() == []


def test_an_operation_relayed_between_two_engines(tmp_path: Path):
    """Each engine talks to one node only; the other's operations come by the outbox."""
    cluster = Cluster(f"sqlite:///{tmp_path}/gpve.db", tmp_path, cores=16)
    engines = []
    try:
        for name, node in (("left", "a"), ("right", "b")):
            database = connect(cluster.address)
            migrate(database)
            sockets = SocketNodes({node: tmp_path / f"{node}.sock"})
            engine = Engine(name, SqlStore(database), sockets, placer(), FLOWS, Rules(lease_s=5.0, sweep_s=0.1))
            engine.start()
            engines.append(engine)
        cluster.store.transact([Work(lambda tx: tx.put("node", {**node_row("c"), "open": False}))])
        for at in range(6):
            wish = request(FLOWS, "vm_create", {**BODY, "name": f"vm-{at}", "node": "ab"[at % 2]})
            engines[0].submit(wish).result(30)
        cluster.wait(60)
        assert {row["node"] for row in cluster.store.rows("guest")} == {"a", "b"}
        assert cluster.findings() == []
    finally:
        for engine in engines:
            engine.stop()
        cluster.stop()
