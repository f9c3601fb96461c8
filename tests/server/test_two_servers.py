"""Two servers on one MariaDB, three nodes each in a network of its own, agents for real under the Rust runtime."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gpve.client import Client
from gpve.runtime.v1 import runtime_pb2 as pb
from tests.server.cluster import Cluster, done, until
from tests.server.net import HUB, Net
from tests.server.test_agents import SH, spec
from tests.tasks.mariadb import MariaDb

NODES = ("a", "b", "c")
ROOM = ("--cpu", "2000", "--memory", "512")
LIVE = (pb.STATE_STARTING, pb.STATE_RUNNING, pb.STATE_PAUSED, pb.STATE_STOPPING)


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net(NODES)
    yield made
    made.end()


def by_socket(mariadb: MariaDb, name: str) -> str:
    """The address of a new database by the server's Unix socket, which is reached from every network."""
    mariadb.database(name)
    return f"mysql+pymysql://root@localhost/{name}?unix_socket={mariadb.directory}/mysqld.sock"


class Watch:
    """Where an agent is alive, asked of all runtimes again and again."""

    def __init__(self, cluster: Cluster, guest: int) -> None:
        self.where: list[tuple[float, frozenset[str]]] = []
        self._cluster, self._name = cluster, f"gpve-{guest}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.is_set():
            found = set()
            for node, daemon in self._cluster.daemons.items():
                for agent in daemon.call.List(pb.ListRequest(), timeout=10).agents:
                    if agent.id == self._name and agent.state in LIVE:
                        found.add(node)
            self.where.append((time.monotonic(), frozenset(found)))
            time.sleep(0.02)

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def moves(self) -> list[frozenset[str]]:
        """The places, one after the other."""
        moves: list[frozenset[str]] = []
        for _, places in self.where:
            if not moves or moves[-1] != places:
                moves.append(places)
        return moves


def status(client: Client, guest: int) -> dict[str, Any]:
    return client.agent_status(guest)


@pytest.mark.usefixtures("runtime")
@pytest.mark.xdist_group("mariadb")
def test_agents_live_and_move(cluster: Cluster, net: Net, mariadb: MariaDb) -> None:
    database = by_socket(mariadb, "two_servers")
    with net.inside("hub"):
        cluster.server("s1", database, host=HUB)
        cluster.server("s2", database, host=HUB)
        for name in NODES:
            cluster.node(name, ROOM, runtime=True, within=net.within(name))
        client = cluster.client("s1")
        _health_and_limits(client)
        _ha(cluster, net, client)
        _each_server_reaches_each_node(cluster)
        for guest in list(client.list("agent")):
            done(client, client.act("agent", "stop", guest.id))
            done(client, client.act("agent", "delete", guest.id))
        assert list(client.list()) == []
        assert client.audit() == []
        assert [(node.used_cpu_milli, node.used_memory_mib) for node in client.nodes()] == [(0, 0)] * 3
        for daemon in cluster.daemons.values():
            assert list(daemon.call.List(pb.ListRequest()).agents) == []
    assert [line for line in cluster.defects() if "Traceback" in line] == []


def _health_and_limits(client: Client) -> None:
    script = "touch ok; echo up; while :; do sleep 0.1; done"
    check = {"exec": [SH, "-c", "test -e ok"], "period_ms": 100, "failures": 1}
    done(client, client.create("agent", spec("patient", script, liveness=check)))
    agent = client.get("agent", "patient")
    list(client.exec(agent.id, [SH, "-c", "rm ok"]))
    until(lambda: status(client, agent.id)["restarts"] >= 1, what="restarted by its health check")
    assert status(client, agent.id)["last_exit"]["reason"] == "health"
    # Another one: a check that comes too early restarts the first anew, and with it what is executed in it.
    done(client, client.create("agent", spec("hungry", "while :; do sleep 0.1; done")))
    agent = client.get("agent", "hungry")
    # 64 MiB are its memory: a program that takes more is killed, the agent is not asked.
    hog = "import sys; x = bytearray(200 << 20); print(len(x))"
    pieces = list(client.exec(agent.id, ["/usr/bin/python3", "-c", hog]))
    assert pieces[-1].exit == -9, pieces
    forks = "i=0; while [ $i -lt 600 ]; do sleep 5 & i=$((i+1)); done; echo made"
    pieces = list(client.exec(agent.id, [SH, "-c", forks], timeout_ms=5000))
    assert pieces[-1].exit != 0, "more processes than its policy's 256"


def _ha(cluster: Cluster, net: Net, client: Client) -> None:
    """A node is cut off: its agents with ha end by themselves, and run elsewhere, never twice; others go on."""
    loop = "while :; do date +%s.%N; sleep 0.05; done"
    done(client, client.create("agent", {**spec("moves", loop), "ha": True}))
    agent = client.get("agent", "moves")
    home = agent.node
    assert home is not None
    done(client, client.create("agent", {**spec("stays", loop), "node": home}))
    stays = client.get("agent", "stays")
    watch = Watch(cluster, agent.id)
    try:
        net.cut(home)
        moved = until(lambda: (g := client.get("agent", agent.id)).node != home and g.phase == "running" and g, 60.0)
        assert moved.node in NODES
        daemon = cluster.daemons[home]
        (left,) = daemon.call.List(pb.ListRequest(ids=[f"gpve-{stays.id}"])).agents
        assert left.state == pb.STATE_RUNNING, "without ha it goes on behind a cut cable"
        net.mend(home)
        until(lambda: client.node(home).alive, 60.0, "the node has joined again")
        until(lambda: not [t for t in client.tasks() if not t.over], 60.0, "all tasks are over")
    finally:
        watch.end()
    assert all(len(places) <= 1 for _, places in watch.where), watch.moves()
    assert watch.moves() == [frozenset({home}), frozenset(), frozenset({moved.node})], watch.moves()
    ids = {one.id for one in cluster.daemons[home].call.List(pb.ListRequest()).agents}
    assert f"gpve-{agent.id}" not in ids, "what moved elsewhere was removed"
    assert client.get("agent", "stays").phase == "running"
    assert client.audit() == []


def _each_server_reaches_each_node(cluster: Cluster) -> None:
    """A call to a node goes by the server that holds its session, whichever is asked."""
    for name in ("s1", "s2"):
        client = cluster.client(name)
        for agent in client.list("agent"):
            (piece, *_, last) = client.exec(agent.id, [SH, "-c", "echo here"])
            assert (piece.data, last.exit) == (b"here\n", 0), (name, agent)
