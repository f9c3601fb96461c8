"""A daemon that is not root: agents have its own user id and no cgroup; the rest holds."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.agentrt.runtime.daemon import SLEEP, Daemon, pb

USER = 12_345
POLICY = """version = 1
optional = ["cgroup-memory", "cgroup-cpu", "cgroup-pids", "cgroup-freezer"]
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    folder = Path(tempfile.mkdtemp(prefix="gpve-"))
    os.chown(folder, USER, USER)
    d = Daemon(folder / "r", user=USER).start()
    yield d
    if d.process is None or d.process.poll() is not None:
        d.start()
    d.leave_nothing()


def test_a_life(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "id -u; echo x > note; cat /proc/self/uid_map; exit 7", policy=POLICY)
    exit = daemon.wait(id).last_exit
    assert (exit.reason, exit.code) == (pb.EXIT_REASON_EXITED, 7)
    assert daemon.logs(id).split() == [b"1000", b"1000", str(USER).encode(), b"1"]


def test_what_it_cannot_do_is_said(daemon: Daemon) -> None:
    with pytest.raises(grpc.RpcError, match=r"limits\.memory.*cgroup-memory"):
        daemon.create(policy="version = 1")
    check = pb.HealthCheck(tcp=pb.HealthCheck.TcpProbe(port=80))
    with pytest.raises(grpc.RpcError, match=r"health\.liveness: only a daemon that is root"):
        daemon.create(policy=POLICY, health=pb.HealthChecks(liveness=check))
    id = daemon.run(policy=POLICY)
    with pytest.raises(grpc.RpcError, match="cannot be paused"):
        daemon.call.Pause(pb.PauseRequest(id=id))
    assert any("not applied: CgroupMemory" in line for line in daemon.agent(id).enforced)


def test_stop_kill_and_no_exec(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done", policy=POLICY)
    with pytest.raises(grpc.RpcError, match="only a daemon that is root"):
        daemon.exec(id, "/bin/true")
    assert daemon.call.Stop(pb.StopRequest(id=id)).agent.last_exit.code == 3
    daemon.start_agent(id)
    assert daemon.call.Kill(pb.KillRequest(id=id)).agent.last_exit.reason == pb.EXIT_REASON_STOPPED


def test_killed_and_taken_up_again(daemon: Daemon) -> None:
    ids = [daemon.run(*SLEEP, policy=POLICY) for _ in range(3)]
    pids = [daemon.agent(id).pid for id in ids]
    for _ in range(5):
        daemon.kill()
        daemon.start()
    assert [daemon.agent(id).pid for id in ids] == pids
    assert all(daemon.agent(id).state == pb.STATE_RUNNING for id in ids)
