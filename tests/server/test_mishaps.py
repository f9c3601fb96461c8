"""What goes wrong around a cluster: databases that go away, full disks, broken rows, dead servers and node agents."""

import subprocess
import time
from pathlib import Path

import pytest

from gpve.runtime.v1 import runtime_pb2 as pb
from gpve.store.database import connect
from gpve.store.sql import SqlStore
from gpve.tasks.ledger import Work
from tests.server.cluster import GPVE, Cluster, NodeAgent, Process, Server, done, refused, until
from tests.server.test_agents import SH, spec
from tests.tasks.mariadb import MariaDb

VM = {"cpu_milli": 100, "memory_mib": 64}


@pytest.mark.parametrize("away_s", [6.0, pytest.param(60.0, marks=pytest.mark.full)])
@pytest.mark.xdist_group("mariadb")
def test_the_database_is_away(cluster: Cluster, mariadb_of_its_own: MariaDb, away_s: float) -> None:
    """Clear errors meanwhile; afterwards no task is lost, and nobody was declared dead for it."""
    server = mariadb_of_its_own
    cluster.server("s", server.database("away"))
    cluster.node("a", ("--cpu", "8000", "--memory", "8192"))
    client = cluster.client()
    tasks = [client.create("vm", {**VM, "name": f"before{at}"}) for at in range(10)]
    server.kill()
    began = time.monotonic()
    with refused(503, "store-away", "try again"):
        client.create("vm", {**VM, "name": "meanwhile"}, key="meanwhile")
    assert client._http.get(f"{cluster.servers['s'].url}/healthz").status_code == 200
    assert client._http.get(f"{cluster.servers['s'].url}/readyz").status_code == 503
    time.sleep(max(0.0, away_s - (time.monotonic() - began)))
    server.start()
    until(lambda: client._http.get(f"{cluster.servers['s'].url}/readyz").status_code == 200, 30.0)
    for task in [*tasks, client.create("vm", {**VM, "name": "meanwhile"}, key="meanwhile")]:
        done(client, task)
    assert client.node("a").alive
    assert sorted(guest.name for guest in client.list()) == [*(f"before{at}" for at in range(10)), "meanwhile"]
    assert client.audit() == []


def test_a_server_is_killed_and_another_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """kill -9 in the middle of creates: the client asks the other server with the same key, and nothing is twice."""
    address = f"sqlite:///{tmp_path}/gpve.db"
    cluster.server("s1", address)
    cluster.server("s2", address)
    for name in ("a", "b"):
        cluster.node(name, ("--cpu", "8000", "--memory", "8192"))
    client = cluster.client("s1", "s2")
    tasks = []
    for at in range(40):
        if at == 20:
            cluster.servers["s1"].kill()
        tasks.append(client.create("vm", {**VM, "name": f"g{at}"}))
    for task in tasks:
        done(client, task)
    assert len(list(client.list())) == 40
    assert client.audit() == []
    until(lambda: client.status()["servers"] and len(client.status()["servers"]) == 1, 20.0, "one server is left")


@pytest.mark.usefixtures("runtime")
def test_a_node_agent_dies_and_adopts_what_runs(cluster: Cluster) -> None:
    """kill -9 of node agent and daemon: agents go on, those with ha until the lease ends; the next take them up."""
    cluster.server("s")
    cluster.node("a", ("--cpu", "2000", "--memory", "1024"), runtime=True)
    client = cluster.client()
    loop = "while :; do sleep 0.1; done"
    done(client, client.create("agent", spec("plain", loop)))
    done(client, client.create("agent", {**spec("high", loop), "ha": True}))
    plain, high = (client.get("agent", name).id for name in ("plain", "high"))
    daemon = cluster.daemons["a"]

    def states() -> dict[str, int]:
        return {agent.id: agent.state for agent in daemon.call.List(pb.ListRequest()).agents}

    until(lambda: states()[f"gpve-{high}"] == pb.STATE_RUNNING, 20.0, "it runs as soon as the node has its lease")
    pid, leased = (daemon.agent(f"gpve-{guest}").pid for guest in (plain, high))
    cluster.nodes["a"].kill()
    daemon.kill()
    with refused(503, "node-away"):
        client.agent_status(plain)
    until(lambda: not Path(f"/proc/{leased}").exists(), 10.0, "it ends by itself, for the lease is over")
    assert Path(f"/proc/{pid}").exists()
    daemon.start()
    until(lambda: states()[f"gpve-{high}"] == pb.STATE_EXITED, 10.0, "the daemon knows")
    assert daemon.agent(f"gpve-{high}").last_exit.reason == pb.EXIT_REASON_LEASE
    assert states()[f"gpve-{plain}"] == pb.STATE_RUNNING
    cluster.nodes["a"].start()
    until(lambda: client.node("a").alive and states()[f"gpve-{high}"] == pb.STATE_RUNNING, 40.0, "both run again")
    assert daemon.agent(f"gpve-{plain}").pid == pid, "it was not touched"
    until(lambda: not [task for task in client.tasks() if not task.over], 30.0)
    assert {guest.phase for guest in client.list()} == {"running"}
    assert client.audit() == []


@pytest.mark.usefixtures("runtime")
def test_an_agent_that_ends_by_itself_is_seen(cluster: Cluster) -> None:
    cluster.server("s")
    cluster.node("a", ("--cpu", "2000", "--memory", "1024"), runtime=True)
    client = cluster.client()
    done(client, client.create("agent", spec("short", "echo done; sleep 0.5; exit 0")))
    agent = client.get("agent", "short")
    until(lambda: client.get("agent", agent.id).phase == "stopped", 20.0, "the store knows that it ended")
    assert client.node("a").used_cpu_milli == 0, "what is stopped claims nothing"
    assert client.agent_status(agent.id)["last_exit"]["reason"] == "exited"
    assert b"".join(piece.data for piece in client.logs(agent.id)) == b"done\n"
    bad = client.create("agent", spec("bad", "true") | {"program": {"argv": ["/no/such/program"]}})
    task = client.wait(bad)
    assert task.status == "undone"
    assert "/no/such/program" in str(task.reason)
    with refused(422, "bad-field", "program.policy", "memorry: no such key"):
        client.create("agent", spec("typo", "true") | {"program": {"argv": [SH], "policy": "memorry = 1"}})
    policy = '[files]\nread = ["/no/such/place"]'
    task = client.wait(client.create("agent", spec("absent", "true") | {"program": {"argv": [SH], "policy": policy}}))
    assert task.status == "undone"
    assert "/no/such/place" in str(task.reason)
    assert [guest.name for guest in client.list()] == ["short"]
    assert client.audit() == []


def test_a_full_disk_loses_no_task(cluster: Cluster) -> None:
    """The node's disk is full: its operations fail, are tried again, and are done when there is room."""
    disk = cluster.directory / "disk"
    disk.mkdir()
    cluster.server("s")
    within = _with_small_disk(disk, "1m")
    directory = disk / "n"
    client = cluster.client()
    cluster.nodes["n"] = node = _on(disk, directory, cluster, within)
    until(lambda: any(one.alive for one in client.nodes()), 30.0)
    inside = ["nsenter", f"--mount=/proc/{node.pid}/ns/mnt"]
    done(client, client.create("vm", {**VM, "name": "first"}))
    fill = f"dd if=/dev/zero of={disk}/ballast bs=4k count=1000 2>/dev/null; true"
    subprocess.run([*inside, "sh", "-c", fill], check=True)
    task = client.create("vm", {**VM, "name": "second"})
    until(lambda: "full" in str(client.task(task.id).reason), 30.0, "it says that the disk is full")
    assert node.running
    subprocess.run([*inside, "rm", f"{disk}/ballast"], check=True)
    done(client, task, 120.0)
    assert client.audit() == []


def test_a_full_disk_of_the_database_loses_no_task(cluster: Cluster) -> None:
    """It is said in a sentence; what was accepted is done when there is room, and what was refused leaves nothing."""
    disk = cluster.directory / "disk"
    disk.mkdir()
    cluster.servers["s"] = server = _server_on(disk, cluster)
    client = cluster.client()
    cluster.node("a", ("--cpu", "4000", "--memory", "4096"))
    done(client, client.create("vm", {**VM, "name": "first"}))
    inside = ["nsenter", f"--mount=/proc/{server.pid}/ns/mnt"]
    accepted = []

    def refusal() -> str:
        """What the server says once it has no room, whatever it still found room for."""
        for _ in range(1000):
            answer = client._http.post(
                f"{server.url}/api/v1/vms", json={**VM, "name": f"v{len(accepted)}", "cpu_milli": 1}
            )
            if answer.status_code != 202:
                assert answer.status_code == 503, answer.text
                return str(answer.json()["detail"])
            accepted.append(answer.json()["id"])
        raise AssertionError("the disk is not full")

    subprocess.run([*inside, "sh", "-c", f"dd if=/dev/zero of={disk}/ballast bs=4k 2>/dev/null; true"], check=True)
    assert "disk of the database is full" in refusal()
    time.sleep(3.0)
    assert server.running
    subprocess.run([*inside, "rm", f"{disk}/ballast"], check=True)
    done(client, client.create("vm", {**VM, "name": "last", "cpu_milli": 1}), 60.0)
    for task in accepted:
        done(client, client.task(task), 60.0)
    names = {guest.name for guest in client.list()}
    assert names == {"first", "last", *(f"v{number}" for number in range(len(accepted)))}
    assert client.audit() == []


def test_a_node_without_room_does_not_join_and_keeps_its_token(cluster: Cluster) -> None:
    disk = cluster.directory / "disk"
    disk.mkdir()
    server = cluster.server("s")
    token = cluster.client().join_token()
    fill = f'dd if=/dev/zero of={disk}/ballast bs=4k 2>/dev/null; exec "$@"'
    joining = [*GPVE, "node-agent", "--server", server.url, "--token", token, "--name", "n", "--agents", "simulated"]
    within = [*_with_small_disk(disk, "64k"), "sh", "-c", fill, "sh"]
    refused = subprocess.run([*within, *joining, "--dir", str(disk)], capture_output=True, text=True)
    assert refused.returncode == 2, refused
    assert refused.stderr.startswith(f"gpve: {disk} cannot be written: "), refused.stderr
    node = NodeAgent(cluster.directory / "n", "n", server.url, token, ("--agents", "simulated"))
    cluster.nodes["n"] = node
    until(lambda: [one.name for one in cluster.client().nodes() if one.alive] == ["n"], 30.0)


def _with_small_disk(disk: Path, size: str) -> list[str]:
    """What runs a command with a small file system, in a mount namespace of its own."""
    command = f'mount -t tmpfs -o size={size},mode=700 none {disk} && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", command, "sh"]


def _server_on(disk: Path, cluster: Cluster) -> Server:
    """A server whose database is on that disk."""

    class OnDisk(Server):
        def start(self) -> "OnDisk":
            arguments = self.arguments()
            Process.__init__(self, arguments, self.directory / "log", _with_small_disk(disk, "8m"))
            return self

    made = OnDisk(cluster.directory / "s", f"sqlite:///{disk}/gpve.db")
    cluster.servers["s"] = made
    made.ready(cluster.token)
    return made


def _on(disk: Path, directory: Path, cluster: Cluster, within: list[str]) -> NodeAgent:
    """A node agent whose directory is on that disk; its log is not."""

    class OnDisk(NodeAgent):
        def start(self) -> "OnDisk":
            arguments = [*GPVE, "node-agent", "--dir", directory, *self.options, *self._join]
            Process.__init__(self, arguments, cluster.directory / "n.log", within)
            return self

    options = ("--agents", "simulated", "--cpu", "4000", "--memory", "4096")
    url = cluster.servers["s"].url
    return OnDisk(cluster.directory / "n", "n", url, cluster.client().join_token(), options)


def test_broken_rows_stop_nobody_else(cluster: Cluster, tmp_path: Path) -> None:
    """A task whose log is damaged is shown as such; all others go on, and it goes on when it is mended."""
    address = f"sqlite:///{tmp_path}/gpve.db"
    cluster.server("s", address)
    cluster.node("a", ("--cpu", "1000", "--memory", "1024"))
    client = cluster.client()
    done(client, client.create("vm", {**VM, "name": "fills", "cpu_milli": 950}))
    task = client.create("vm", {**VM, "name": "waits"})
    until(lambda: client.task(task.id).status == "waiting")
    cluster.servers["s"].kill()
    database = connect(address)
    store = SqlStore(database)
    (event,) = [row for row in store.rows("event", task=task.id) if row["seq"] == 1]
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET data = '{broken' WHERE task = ? AND seq = 1", (task.id,))
    cluster.servers["s"].start().ready(cluster.token)
    until(lambda: client.task(task.id).status == "unreadable", 30.0, "it is set aside")
    assert client.task(task.id).log[1]["data"] == {"damaged": "{broken"}
    assert any(f"task {task.id}" in alarm for alarm in client.status()["alarms"])
    fills = client.get("vm", "fills")
    done(client, client.act("vm", "stop", fills.id))
    done(client, client.act("vm", "delete", fills.id))
    done(client, client.create("vm", {**VM, "name": "other"}))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET data = ? WHERE task = ? AND seq = 1", (event["data"], task.id))
    client.resume(task.id)
    done(client, task)
    assert client.audit() == []
    database.dispose()


def test_an_older_server_leaves_alone_what_it_does_not_know(cluster: Cluster, tmp_path: Path) -> None:
    """A task of a newer version's flow stays visible and untouched; the older server drives all others."""
    address = f"sqlite:///{tmp_path}/gpve.db"
    cluster.server("s", address)
    cluster.node("a", ("--cpu", "4000", "--memory", "1024"))
    client = cluster.client()
    first = client.create("vm", {**VM, "name": "first"})
    done(client, first)
    database = connect(address)
    store = SqlStore(database)

    def newer(tx) -> int:
        """As a newer server would submit it: the same flow, of a version that nobody here knows."""
        task = tx.take("task")
        row = {**tx.get("task", first.id), "id": task, "version": 99, "table_hash": "f" * 16, "status": "queued"}
        tx.put("task", {**row, "seq": 1, "closed_at": None, "progress": 0.0, "owner": None, "target": None})
        log = {**tx.get("event", first.id, 0), "task": task}
        tx.put("event", log)
        return task

    (number,) = store.transact([Work(newer)])
    done(client, client.create("vm", {**VM, "name": "second"}))
    time.sleep(2.0)
    told = client.task(number)
    assert (told.status, told.revision) == ("queued", store.rows("task", id=number)[0]["revision"])
    assert store.rows("task", id=number)[0]["owner"] is None
    database.dispose()
