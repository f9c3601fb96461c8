"""An AI agent, for real: created by HTTP, run by the Rust runtime, and nothing is left of it."""

from pathlib import Path
from typing import Any

import pytest

from gpve.client import Client
from tests.server.cluster import Cluster, done, refused, until

SH = "/bin/sh"


def spec(name: str, script: str, **more: object) -> dict[str, object]:
    """An agent that runs a shell script."""
    program = {"argv": [SH, "-c", script], **more}
    return {"name": name, "cpu_milli": 500, "memory_mib": 64, "program": program}


@pytest.mark.usefixtures("runtime")
def test_an_agent_from_its_creation_to_its_end(cluster: Cluster) -> None:
    cluster.server("s")
    cluster.node("a", runtime=True)
    client = cluster.client()
    task = client.create("agent", spec("worker", "echo up; while :; do sleep 0.1; done"))
    assert done(client, task).progress == 1.0
    agent = client.get("agent", "worker")
    assert (agent.phase, agent.node) == ("running", "a")
    (running,) = cluster.daemons["a"].call.List(runtime_list()).agents
    assert running.id == f"gpve-{agent.id}"
    assert b"".join(piece.data for piece in client.logs(agent.id)) == b"up\n"
    pieces = list(client.exec(agent.id, [SH, "-c", "cat; echo err >&2; exit 3"], stdin="in"))
    assert b"".join(piece.data for piece in pieces if piece.stream == "stdout") == b"in"
    assert b"".join(piece.data for piece in pieces if piece.stream == "stderr") == b"err\n"
    assert pieces[-1].exit == 3
    status = client.agent_status(agent.id)
    assert (status["state"], status["executor"]) == ("running", "runtime")
    assert any("memory" in layer for layer in status["enforced"]), status["enforced"]
    with refused(409, "not-now", "allowed", "stop"):
        client.act("agent", "delete", agent.id)
    done(client, client.act("agent", "stop", agent.id))
    done(client, client.act("agent", "delete", agent.id))
    with refused(404, "not-found", "worker"):
        client.get("agent", "worker")
    assert client.audit() == []
    (node,) = client.nodes()
    assert (node.used_cpu_milli, node.used_memory_mib) == (0, 0)
    assert list(cluster.daemons["a"].call.List(runtime_list()).agents) == []
    assert cluster.defects() == []


def runtime_list():
    from gpve.runtime.v1 import runtime_pb2

    return runtime_pb2.ListRequest()


@pytest.mark.usefixtures("runtime")
def test_a_workspace_is_put_back_to_a_checkpoint(cluster: Cluster) -> None:
    """Of one moment, while the agent runs: files that it writes one after the other are of the same round."""
    cluster.server("s")
    cluster.node("a", runtime=True)
    client = cluster.client()
    script = "[ -e kept ] && exec sleep 1000; i=0; "
    script += "while :; do i=$((i+1)); echo $i > t; mv t one; echo $i > t; mv t two; done"
    done(client, client.create("agent", spec("worker", script)))
    agent = client.get("agent", "worker")

    def run(command: str) -> list[str]:
        pieces = client.exec(agent.id, [SH, "-c", command])
        return b"".join(piece.data for piece in pieces if piece.stream == "stdout").decode().split()

    until(lambda: run("cat two"), 10.0, "it writes")
    done(client, client.act("agent", "checkpoint", agent.id, {"name": "first"}))
    assert client.agent_status(agent.id)["state"] == "running", "it was frozen for the moment alone"
    run("echo x > kept; mkdir -p deep/er; ln -s /etc/passwd link; echo y > deep/er/later")
    done(client, client.act("agent", "checkpoint", agent.id, {"name": "second"}))
    done(client, client.act("agent", "stop", agent.id))
    for name, kept in (("second", ["kept", "deep/er/later", "/etc/passwd"]), ("first", [])):
        done(client, client.act("agent", "restore", agent.id, {"name": name}))
        if not kept:
            break
        done(client, client.act("agent", "start", agent.id))
        assert run("ls kept deep/er/later; readlink link") == ["deep/er/later", "kept", "/etc/passwd"]
        one, two = run("cat one two")
        assert int(one) - int(two) in (0, 1)
        done(client, client.act("agent", "stop", agent.id))
    folder = cluster.nodes["a"].directory / "checkpoints" / str(agent.id)
    assert sorted(file.name for file in folder.iterdir()) == ["first.tar", "second.tar"]
    with refused(404, "not-found", "third"):
        client.act("agent", "restore", agent.id, {"name": "third"})
    done(client, client.act("agent", "start", agent.id))
    assert run("ls kept deep 2>/dev/null") == []
    (folder / "second.tar").unlink()
    done(client, client.act("agent", "stop", agent.id))
    task = client.wait(client.act("agent", "restore", agent.id, {"name": "second"}))
    assert (task.status, "is not on this node" in str(task.reason)) == ("undone", True), task
    done(client, client.act("agent", "delete", agent.id))
    assert not folder.exists()
    assert cluster.defects() == []


@pytest.mark.usefixtures("runtime")
def test_a_node_says_what_is_used(cluster: Cluster, tmp_path: Path, command) -> None:
    """Of the machine and of each agent, through whichever server is asked; a limit shows in it."""
    address = f"sqlite:///{tmp_path}/gpve.db"
    cluster.server("s1", address)
    cluster.server("s2", address)
    cluster.node("a", ("--cpu", "2000", "--memory", "1024"), runtime=True)
    client = cluster.client("s1")
    busy = {**spec("busy", "while :; do :; done"), "cpu_milli": 300}
    for wanted in (busy, spec("idle", "sleep 1000")):
        done(client, client.create("agent", wanted))
    numbers = {name: str(client.get("agent", name).id) for name in ("busy", "idle")}

    for asked in (cluster.client("s1"), cluster.client("s2")):

        def used(asked: Client = asked) -> dict[str, Any] | None:
            found = asked.usage("a")
            return found if found["guests"][numbers["busy"]]["cpu_milli"] > 50 else None

        told = until(used, 20.0)
        assert set(told["guests"]) == set(numbers.values())
        assert told["guests"][numbers["busy"]]["cpu_milli"] < 700, "three tenths of a CPU is its limit"
        assert told["guests"][numbers["idle"]]["cpu_milli"] < 50
        assert told["memory_mib"] > 100
        assert told["cpu_milli"] > 0
    said = command("node", "usage", "a")
    assert said.code == 0
    assert "the machine" in said.out
    assert numbers["busy"] in said.out
    with refused(404, "not-found"):
        client.usage("nowhere")
    cluster.nodes["a"].kill()
    until(lambda: client._http.get(f"{cluster.servers['s1'].url}/metrics").text.count("gpve_node_sessions 0.0"), 20.0)
    with refused(503, "node-away"):
        client.usage("a")
