"""Agents that are forked where they say so: each goes on from the same point, as an agent of its own."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.agentrt.runtime.daemon import Daemon, new_id, pb, programs
from tests.agentrt.runtime.test_templates import SLEEP, until

POLICY = """version = 1
checkpoints = true
[limits]
memory = "128MiB"
processes = 20
"""

#: Something in memory and in files, then a checkpoint; what each finds afterwards is told in a line.
SEARCH = """
import gpve_agent, json, os, random, socket, sys, time
steps = ["begin"]
os.makedirs("deep/er")
for path, text in (("note", "parent"), ("deep/er/still", "there"), ("/tmp/note", "tmp")):
    with open(path, "w") as file:
        file.write(text)
os.symlink("note", "link")
os.chmod("note", 0o640)
print("waits", flush=True)
number = gpve_agent.checkpoint()
steps.append(number)
def read(path):
    with open(path) as file:
        return file.read()
seen = {path: read(path) for path in ("note", "deep/er/still", "/tmp/note", "link")}
with open("note", "w") as file:
    file.write(f"of {number}")
print(json.dumps({
    "number": number, "steps": steps, "seen": seen, "mode": os.stat("note").st_mode & 0o777, "uid": os.getuid(),
    "machine": read("/etc/machine-id"), "host": socket.gethostname(), "random": random.random(),
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd")), "cwd": os.getcwd(),
    "processes": len([n for n in os.listdir("/proc") if n.isdigit()]),
}), flush=True)
"""
STAY = SEARCH + "time.sleep(1000)\n"


def fork(daemon: Daemon, id: str, count: int, *, patience_s: float = 10.0, **request: Any) -> list[Any]:
    """What an agent says comes a moment before its checkpoint: asked again until it is there."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            return list(daemon.call.Fork(pb.ForkRequest(id=id, count=count, **request), timeout=60).agents)
        except grpc.RpcError as error:
            if "not at a checkpoint" not in str(error) or time.monotonic() > until_s:
                raise
        time.sleep(0.01)


def at_checkpoint(daemon: Daemon, code: str = STAY, **claim: Any) -> Any:
    agent = daemon.claim("t", "-c", code, **claim)
    until(lambda: b"waits\n" in daemon.logs(agent.id))
    return agent


def told(daemon: Daemon, id: str) -> Any:
    """The line that it has written after the checkpoint."""
    until(lambda: daemon.logs(id).endswith(b"}\n"))
    return json.loads(daemon.logs(id).splitlines()[-1])


def test_forks_go_on_from_the_same_point_each_on_its_own(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY, imports=["random"])
    parent = at_checkpoint(daemon, labels={"a": "b"}, limits=pb.Limits(pids=9))
    forks = fork(daemon, parent.id, 4, labels={"search": "1"})
    assert len({agent.id for agent in forks} | {parent.id}) == 5
    for agent in forks:
        assert (agent.state, agent.template, agent.forked_from) == (pb.STATE_RUNNING, "t", parent.id)
        assert dict(agent.labels) == {"a": "b", "search": "1"}
        assert agent.limits.pids == 9
        assert [e.kind for e in daemon.events(id=agent.id)] == ["forked"]
    seen = [told(daemon, agent.id) for agent in (parent, *forks)]
    assert [about["number"] for about in seen] == [0, 1, 2, 3, 4]
    for about in seen:
        assert about["steps"] == ["begin", about["number"]]
        assert about["seen"] == {"note": "parent", "deep/er/still": "there", "/tmp/note": "tmp", "link": "parent"}
        assert (about["mode"], about["uid"], about["cwd"]) == (0o640, 1000, "/workspace")
    for about in seen[1:]:
        # Its streams, where it would be forked again, and the listing's own.
        assert about["descriptors"] == [0, 1, 2, 3, 4]
        assert about["processes"] == 1
    for word in ("machine", "host", "random"):
        assert len({about[word] for about in seen}) == 5, word
    # What one has written no other sees; what was printed before the checkpoint is the parent's alone.
    for number, agent in enumerate((parent, *forks)):
        assert daemon.exec(agent.id, "/bin/cat", "note")[1] == f"of {number}".encode()
        assert (b"waits" in daemon.logs(agent.id)) == (number == 0)
    # Each has a cgroup of its own: one at its limit is none of the others' business.
    assert daemon.exec(forks[0].id, "/usr/bin/python3", "-c", "x = bytearray(300 << 20)")[0] != 0
    assert daemon.agent(forks[1].id).state == pb.STATE_RUNNING
    assert daemon.stats(forks[0].id).oom_kills >= 1
    assert daemon.stats(forks[1].id).oom_kills == daemon.stats(parent.id).oom_kills == 0
    assert 0 < daemon.stats(forks[1].id).memory_bytes < 64 << 20
    with pytest.raises(grpc.RpcError, match="has 5 agents; delete them first"):
        daemon.call.DeleteTemplate(pb.DeleteTemplateRequest(name="t"))
    daemon.delete(forks[3].id)
    assert daemon.agent(forks[2].id).state == pb.STATE_RUNNING


def test_a_fork_is_forked_and_an_agent_twice(daemon: Daemon) -> None:
    code = """
import gpve_agent, time
path = []
print("waits", flush=True)
for _ in range(3):
    path.append(gpve_agent.checkpoint())
    print("at", path, flush=True)
if path[-1] == 0:
    time.sleep(1000)
"""
    daemon.template("t", policy=POLICY)
    parent = at_checkpoint(daemon, code)
    one, two = fork(daemon, parent.id, 2)
    until(lambda: daemon.logs(two.id) == b"at [2]\n")
    (deeper,) = fork(daemon, two.id, 1)
    (again,) = fork(daemon, parent.id, 1)
    until(lambda: daemon.logs(deeper.id) == b"at [2, 1]\n" and daemon.logs(again.id) == b"at [0, 1]\n")
    until(lambda: daemon.logs(parent.id).endswith(b"at [0, 0]\n"))
    (last,) = fork(daemon, deeper.id, 1)
    exit = daemon.wait(last.id).last_exit
    assert (exit.reason, exit.code) == (pb.EXIT_REASON_EXITED, 0), daemon.logs(last.id)
    assert daemon.logs(last.id) == b"at [2, 1, 1]\n"
    # With one that ends, however that comes, ends what is beneath it, and nothing else.
    daemon.call.Kill(pb.KillRequest(id=two.id, signal=signal.SIGTERM))
    assert daemon.wait(two.id).last_exit.reason == pb.EXIT_REASON_SIGNAL
    assert daemon.agent(one.id).state == daemon.agent(again.id).state == pb.STATE_RUNNING
    daemon.delete(parent.id)
    for child, of in ((deeper, two), (one, parent), (again, parent)):
        exit = daemon.wait(child.id).last_exit
        assert exit.reason == pb.EXIT_REASON_KILLED
        assert f"agent {of.id}, which it was forked from, has ended" in exit.detail


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('waits', flush=True)\nimport time; time.sleep(1000)", "not at a checkpoint"),
        (
            "import subprocess, gpve_agent\nsubprocess.Popen(['/bin/sleep', '1000'])\n"
            "print('waits', flush=True)\ngpve_agent.checkpoint()",
            "1 other processes",
        ),
    ],
)
def test_what_cannot_be_forked_is_refused_in_a_sentence(daemon: Daemon, code: str, words: str) -> None:
    daemon.template("t", policy=POLICY)
    agent = at_checkpoint(daemon, code)
    time.sleep(0.2)
    with pytest.raises(grpc.RpcError, match=words):
        fork(daemon, agent.id, 2, patience_s=0.0)
    assert [a.id for a in daemon.call.List(pb.ListRequest()).agents] == [agent.id]


def test_who_is_no_agent_to_fork_is_refused_in_a_sentence(daemon: Daemon) -> None:
    daemon.template("u", policy="version = 1")
    for id, words in (
        (daemon.run(), "was not claimed from a template"),
        (daemon.claim("u", *SLEEP).id, "does not say checkpoints = true"),
        ("none", "no agent"),
    ):
        with pytest.raises(grpc.RpcError, match=words):
            fork(daemon, id, 1)
    daemon.template("t", policy=POLICY)
    agent = at_checkpoint(daemon)
    for count in (0, 65):
        with pytest.raises(grpc.RpcError, match="not between 1 and 64"):
            fork(daemon, agent.id, count)
    daemon.call.Pause(pb.PauseRequest(id=agent.id))
    with pytest.raises(grpc.RpcError, match="it is paused"):
        fork(daemon, agent.id, 1)
    with pytest.raises(grpc.RpcError, match="claimed from a template"):
        daemon.create(policy=POLICY)
    with pytest.raises(grpc.RpcError, match="no_fork"):
        daemon.template("v", policy=POLICY, no_fork=True)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()", b"2 threads"),
        ("kept = open('kept', 'w')", b"/workspace/kept"),
        ("import socket\nkept = socket.socket()", b"socket:"),
    ],
)
def test_a_checkpoint_refuses_what_a_fork_would_lose(daemon: Daemon, before: str, words: bytes) -> None:
    daemon.template("t", policy=POLICY)
    id = daemon.claim("t", "-c", before + "\nimport gpve_agent\ngpve_agent.checkpoint()").id
    assert daemon.wait(id).last_exit.code == 1
    assert words in daemon.logs(id), daemon.logs(id)


def test_without_the_policy_there_is_no_checkpoint(daemon: Daemon) -> None:
    daemon.template("t", policy="version = 1")
    id = daemon.claim("t", "-c", "import gpve_agent\ngpve_agent.checkpoint()").id
    assert daemon.wait(id).last_exit.code == 1
    assert b"checkpoints = true" in daemon.logs(id)


def test_one_request_is_one_forking(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY)
    agent = at_checkpoint(daemon)
    request = {"request_id": new_id()}
    first = [a.id for a in fork(daemon, agent.id, 2, **request)]
    assert [a.id for a in fork(daemon, agent.id, 2, **request)] == first


def test_forks_live_on_when_the_daemon_dies(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY)
    parent = at_checkpoint(daemon)
    forks = fork(daemon, parent.id, 3)
    pids = [agent.pid for agent in forks]
    daemon.kill()
    daemon.start()
    for agent, pid in zip(forks, pids, strict=True):
        now = daemon.agent(agent.id)
        assert (now.state, now.pid, now.forked_from) == (pb.STATE_RUNNING, pid, parent.id)
        assert daemon.exec(agent.id, "/bin/cat", "deep/er/still")[1] == b"there"


def test_the_daemon_is_killed_while_it_forks(daemon: Daemon) -> None:
    """Whatever it had made is gone or is an agent, whole; the agent that was forked waits still, or goes on."""
    daemon.template("t", policy=POLICY)
    for round in range(8):
        agent = at_checkpoint(daemon)
        daemon.exec(agent.id, "/bin/sh", "-c", "head -c 20000000 /dev/urandom > much")
        asked = daemon.call.Fork.future(pb.ForkRequest(id=agent.id, count=6))
        time.sleep(0.02 * round)
        daemon.kill()
        assert asked.exception() or asked.result()
        daemon.start()
        until(lambda: not any((daemon.root / "parked").iterdir()))
        for other in daemon.call.List(pb.ListRequest()).agents:
            if other.id != agent.id:
                until(lambda other=other: daemon.logs(other.id).endswith(b"}\n"))
            daemon.delete(other.id)
    # Nothing is left, which the fixture sees to, and it forks as before.
    assert len(fork(daemon, at_checkpoint(daemon).id, 2)) == 2


def test_a_hundred_forks_leave_nothing(daemon: Daemon) -> None:
    code = "import gpve_agent\nprint('waits', flush=True)\nwhile gpve_agent.checkpoint() == 0: pass\n"
    daemon.template("t", policy=POLICY)
    agent = at_checkpoint(daemon, code)
    fork(daemon, agent.id, 10)

    def open_files() -> list[int]:
        daemon_and_spawners = [daemon.pid, *daemon.spawner_pids(), agent.pid]
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in daemon_and_spawners]

    def clear() -> None:
        for other in daemon.call.List(pb.ListRequest()).agents:
            if other.id != agent.id:
                assert daemon.wait(other.id).last_exit.code == 0
                daemon.delete(other.id)

    clear()
    before = open_files()
    for _ in range(9):
        fork(daemon, agent.id, 10)
        clear()
    assert open_files() == before
    # Nor does the agent have any child that nobody has reaped.
    out = daemon.exec(agent.id, "/bin/sh", "-c", "ls -d /proc/[0-9]*")[1]
    assert len(out.split()) <= 2, out


def test_an_agent_that_does_not_fork_holds_nobody_up(daemon: Daemon) -> None:
    """It says that it waits, and does not: who asks is told, others are served meanwhile."""
    daemon.template("t", policy=POLICY)
    agent = at_checkpoint(daemon, "import os, time\nos.write(4, b'c')\nprint('waits', flush=True)\ntime.sleep(1000)")
    asked = daemon.call.Fork.future(pb.ForkRequest(id=agent.id, count=2))
    began = time.monotonic()
    daemon.delete(daemon.claim("t", *SLEEP).id)
    assert time.monotonic() - began < 1.5
    with pytest.raises(grpc.RpcError, match="not forked within 2 s"):
        asked.result()


def test_the_command_line_forks(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY)
    agent = at_checkpoint(daemon)
    command = [programs() / "gpve-agentrt", "--socket", daemon.socket, "fork", agent.id, "-n", "3"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=True)
    ids = done.stdout.split()
    assert [told(daemon, id)["number"] for id in ids] == [1, 2, 3]
