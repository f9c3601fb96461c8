"""Real processes, killed with -9 at random moments while 500 tasks run; and the database itself.

After each round: every task is done or undone (nothing here can end stuck), every effect was made once, the audit of
store and nodes finds nothing. Nobody tells the engines of a task: they find it.
"""

import random
import time
from pathlib import Path

import pytest

from gpve.tasks.state import CLOSED
from gpve.world.store import StoreDown
from tests.store.conftest import DATABASES, address_of
from tests.tasks.cluster import NAMES, Cluster

TASKS = 500


def a_round(cluster: Cluster, chosen: random.Random) -> None:
    """Submit, kill engines (and now and then the nodes) at random moments, wait for the end, look."""
    cluster.submit(TASKS, chosen)
    for _ in range(2):
        time.sleep(chosen.random() * 0.8)
        victim = chosen.choice(["one", "two"])
        cluster.kill(victim)
        cluster.start_engine(victim)
    cluster.wait()
    assert cluster.findings() == []
    statuses = {row["status"] for row in cluster.store.rows("task")}
    assert statuses == set(CLOSED), "some are undone: the nodes refuse by lot"


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.full)])
@pytest.mark.parametrize("kind", DATABASES)
def test_engines_are_killed(kind, rounds, request: pytest.FixtureRequest, tmp_path: Path):
    chosen = random.Random(rounds)
    cluster = None
    try:
        for number in range(rounds):
            if number % 5 == 0:
                # A new cluster now and then: what a round costs grows with what it finds.
                if cluster is not None:
                    cluster.stop()
                directory = tmp_path / f"{number}"
                directory.mkdir()
                for name in NAMES:
                    (directory / f"{name}.refuse").write_text("0.02")
                cluster = Cluster(address_of(kind, request, directory), directory)
                cluster.start_engine("one")
                cluster.start_engine("two")
            assert cluster is not None
            a_round(cluster, chosen)
    finally:
        if cluster is not None:
            cluster.stop()


def test_nodes_are_killed_too(tmp_path: Path):
    """Between effect and record as well: what the node made it finds again, and makes no second time."""
    chosen = random.Random(3)
    cluster = Cluster(f"sqlite:///{tmp_path}/gpve.db", tmp_path)
    try:
        cluster.start_engine("one")
        for _ in range(3):
            cluster.submit(TASKS, chosen)
            for _ in range(4):
                time.sleep(chosen.random() * 0.5)
                cluster.kill("nodes")
                cluster.start("nodes", "stub_node.py", str(tmp_path), *NAMES)
            cluster.wait()
            assert cluster.findings() == []
    finally:
        cluster.stop()


@pytest.mark.xdist_group("mariadb")
def test_the_database_is_killed(mariadb_of_its_own, tmp_path: Path):
    """MariaDB, twenty times, at random moments; engines and tasks go on when it is back."""
    chosen = random.Random(4)
    server = mariadb_of_its_own
    cluster = Cluster(server.database("killed"), tmp_path)
    try:
        cluster.start_engine("one")
        cluster.start_engine("two")
        kills = 0
        while kills < 20:
            cluster.submit(TASKS, chosen)
            for _ in range(4):
                time.sleep(chosen.random() * 1.0)
                server.kill()
                server.start()
                kills += 1
            cluster.wait()
            assert cluster.findings() == []
    finally:
        cluster.stop()


def test_a_store_that_does_not_answer_is_told(tmp_path: Path):
    cluster = Cluster(f"sqlite:///{tmp_path}/gpve.db", tmp_path)
    try:
        cluster.database.dispose()
        (tmp_path / "gpve.db").write_bytes(b"no database at all" * 1000)
        with pytest.raises(StoreDown):
            cluster.store.rows("task")
        with pytest.raises(StoreDown):
            cluster.store.transact([])
    finally:
        cluster.stop()
