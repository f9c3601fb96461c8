"""A live session with two servers, dumped: the simulator audits it, and decides every placement again."""

import json
from pathlib import Path

import pytest
from gpve_sim.live import read, redecide

from tests.server.cluster import Cluster, done, until
from tests.tasks.mariadb import MariaDb


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("sqlite", "best-fit"), pytest.param("mariadb", "random", marks=pytest.mark.xdist_group("mariadb"))],
)
def test_what_two_servers_decided_is_decided_again(
    cluster: Cluster, kind: str, policy: str, request: pytest.FixtureRequest, tmp_path: Path, command
) -> None:
    address = f"sqlite:///{tmp_path}/gpve.db"
    if kind == "mariadb":
        mariadb: MariaDb = request.getfixturevalue("mariadb")
        address = mariadb.database(f"dump_{policy}")
    options = ("--lease", "3", "--policy", policy)
    cluster.server("s1", address, options)
    cluster.server("s2", address, options)
    for name in ("a", "b", "c"):
        cluster.node(name, ("--cpu", "4000", "--memory", "4096"))
    clients = [cluster.client("s1"), cluster.client("s2")]
    spec = {"cpu_milli": 300, "memory_mib": 100}
    tasks = []
    for at in range(50):
        # More than fits: some wait, until others go.
        tasks.append(clients[at % 2].create(("vm", "agent", "vcluster")[at % 3], {**spec, "name": f"g{at}"}))
    until(lambda: not [t for t in clients[0].tasks(most=200) if t.status in ("queued", "running")])
    waiting = clients[0].tasks(most=200, status="waiting")
    assert len(waiting) == 50 - 3 * 13
    gone = list(clients[0].list("agent", phase="running"))[: len(waiting)]
    for at, guest in enumerate(gone):
        done(clients[at % 2], clients[at % 2].act("agent", "stop", guest.id))
    until(lambda: all(clients[0].task(task.id).over for task in tasks[:50]))
    file = tmp_path / "cluster.jsonl"
    assert command("dump", str(file)).code == 0
    told = redecide(read(file))
    assert (told.differing, told.findings, told.skipped) == ([], [], 0)
    assert told.decisions >= 50
    assert told.servers == 2
    assert command("redecide", str(file)).code == 0
    _altered(file, command)


def _altered(file: Path, command) -> None:
    """The comparison can fail: one decision of the file names another node."""
    lines = file.read_text().splitlines()
    for at, line in enumerate(lines):
        told = json.loads(line)
        if told.get("table") == "decision":
            answers = json.loads(told["row"]["answers"])
            if "node" in answers[0]:
                answers[0]["node"] = {"a": "b", "b": "c", "c": "a"}[answers[0]["node"]]
                told["row"]["answers"] = json.dumps(answers)
                lines[at] = json.dumps(told)
                break
    file.write_text("\n".join(lines) + "\n")
    said = command("redecide", str(file))
    assert said.code == 1
    assert "then" in said.out
    file.write_text("nonsense\n")
    assert command("redecide", str(file)).code == 2
