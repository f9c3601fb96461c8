"""An AI agent, for real: created by HTTP, run by the Rust runtime, and nothing is left of it."""

import pytest

from tests.server.cluster import Cluster, done, refused

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
