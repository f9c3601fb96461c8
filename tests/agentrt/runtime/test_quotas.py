"""Quotas attacked: the neighbour and the daemon keep service, and the reason is reported."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.agentrt.runtime.daemon import SLEEP, Daemon, pb
from tests.agentrt.runtime.test_kill import until

POLICY = """
version = 1
[limits]
memory = "96 MiB"
processes = 40
cpus = 0.5
open_files = 64
[workspace]
size = "16 MiB"
inodes = 500
"""
PYTHON = ("/usr/bin/python3", "-c")


class Neighbour:
    """An agent beside the attacked one: how late its execs are answered says whether it has service."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.id = daemon, daemon.run(*SLEEP, policy=POLICY)
        self.worst = 0.0

    def ask(self) -> None:
        began = time.monotonic()
        assert self.daemon.exec(self.id, "/bin/echo", "fine")[1] == b"fine\n"
        self.daemon.call.List(pb.ListRequest(), timeout=5)
        self.worst = max(self.worst, time.monotonic() - began)


def attack(daemon: Daemon, *argv: str, seconds: float = 1.5, **spec: Any) -> tuple[str, Neighbour]:
    """The attack runs, and for that long a neighbour is asked; the daemon's memory does not follow the attack."""
    neighbour = Neighbour(daemon)
    neighbour.ask()
    before = daemon.call.Stats(pb.StatsRequest()).daemon
    id = daemon.run(*argv, **{"policy": POLICY, **spec})
    until_end = time.monotonic() + seconds
    while time.monotonic() < until_end:
        neighbour.ask()
    after = daemon.call.Stats(pb.StatsRequest()).daemon
    assert neighbour.worst < 1.0, neighbour.worst
    assert after.resident_bytes - before.resident_bytes < 16 << 20, (before, after)
    assert after.open_files - before.open_files < 20
    assert daemon.agent(neighbour.id).state == pb.STATE_RUNNING
    return id, neighbour


def test_fork_bomb(daemon: Daemon) -> None:
    id, _ = attack(daemon, *PYTHON, "import os\nwhile True:\n try: os.fork()\n except OSError: pass")
    stats = daemon.stats(id)
    assert stats.pids <= 40
    assert stats.limit_hits["pids"] > 0
    daemon.call.Kill(pb.KillRequest(id=id), timeout=20)
    assert "pids" in daemon.agent(id).last_exit.limits_hit


HOGS = {
    "heap": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memfd": "import os\nf = os.memfd_create('x')\nwhile True: os.write(f, bytes(1 << 20))",
    "pipes": (
        "import os, fcntl\np = []\nwhile True:\n r, w = os.pipe(); p.append(w)\n"
        " os.set_blocking(w, False)\n"
        " try: fcntl.fcntl(w, 1031, 1 << 20)\n except OSError: pass\n"
        " try:\n  while True: os.write(w, bytes(65536))\n except BlockingIOError: pass"
    ),
}


@pytest.mark.parametrize("path", ["heap", "memfd", "pipes"])
def test_memory(daemon: Daemon, path: str) -> None:
    id, _ = attack(daemon, *PYTHON, HOGS[path], seconds=0.5)
    if path == "pipes":
        # Bounded twice: by open files and by the pipe pages of a user. Whichever comes first, it is within the limit.
        until(lambda: daemon.agent(id).state == pb.STATE_EXITED)
        assert daemon.agent(id).last_exit.reason in (pb.EXIT_REASON_EXITED, pb.EXIT_REASON_OOM)
        return
    exit = daemon.wait(id).last_exit
    assert exit.reason == pb.EXIT_REASON_OOM, exit
    assert str(96 << 20) in exit.detail
    assert "memory" in exit.limits_hit


def test_memory_by_tmpfs_of_a_large_workspace(daemon: Daemon) -> None:
    policy = 'version = 1\n[limits]\nmemory = "64 MiB"\n[workspace]\nsize = "1 GiB"\n'
    script = "f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))"
    id, _ = attack(daemon, *PYTHON, script, seconds=0.5, policy=policy)
    assert daemon.wait(id).last_exit.reason == pb.EXIT_REASON_OOM


def test_disk_and_inodes(daemon: Daemon) -> None:
    script = "f = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush()"
    id, _ = attack(daemon, *PYTHON, script, seconds=0.3)
    assert daemon.wait(id).last_exit.code == 1
    assert b"No space left on device" in daemon.logs(id)
    id, _ = attack(daemon, *PYTHON, "i = 0\nwhile True: open(f'f{i}', 'w'); i += 1", seconds=0.3)
    assert daemon.wait(id).last_exit.code == 1
    assert b"No space left on device" in daemon.logs(id)


def test_cpu(daemon: Daemon) -> None:
    id, _ = attack(daemon, *PYTHON, "import os\nfor _ in range(8): os.fork()\nwhile True: pass")
    first = daemon.stats(id).cpu_ns
    time.sleep(1)
    used = (daemon.stats(id).cpu_ns - first) / 1e9
    assert used < 0.75, used
    # On a machine that gave it less than its quota anyhow, nothing was held back.
    assert used < 0.45 or daemon.stats(id).limit_hits["cpu"] > 0


def test_descriptors(daemon: Daemon) -> None:
    id, _ = attack(daemon, *PYTHON, "import os\nwhile True: os.dup(0)", seconds=0.3)
    assert daemon.wait(id).last_exit.code == 1
    assert b"Too many open files" in daemon.logs(id)


def test_logs_as_fast_as_they_go(daemon: Daemon) -> None:
    script = "import os\nx = bytes(1 << 20)\nwhile True: os.write(1, x)"
    log = pb.LogOptions(max_bytes=2 << 20, max_bytes_per_s=1 << 20)
    policy = "version = 1\n[limits]\ncpus = 2\n"
    id, _ = attack(daemon, *PYTHON, script, log=log, seconds=2, policy=policy)
    stats = daemon.stats(id)
    assert stats.log_bytes > 100 << 20, "the attack was too slow to prove anything"
    assert stats.limit_hits["log"] > 0
    kept = sum(f.stat().st_size for f in (daemon.root / "agents" / id).glob("log.*"))
    assert kept <= 2 << 20
    assert b"bytes dropped" in daemon.logs(id)
    # A reader who never reads costs nothing either.
    call = daemon.call.Logs(pb.LogsRequest(id=id, follow=True))
    time.sleep(0.5)
    assert daemon.call.Stats(pb.StatsRequest()).daemon.resident_bytes < 64 << 20
    call.cancel()


def test_zombies_and_double_forks(daemon: Daemon) -> None:
    script = (
        "import os, time\nfor _ in range(2000):\n"
        " if os.fork() == 0:\n  if os.fork() == 0: os._exit(0)\n  os._exit(0)\n os.wait()\n"
        "print('done', flush=True)\ntime.sleep(1000)"
    )
    id, _ = attack(daemon, *PYTHON, script, seconds=0.5)
    until(lambda: b"done" in daemon.logs(id), timeout=40)
    until(lambda: daemon.stats(id).pids <= 3)


def test_flood_of_requests(daemon: Daemon) -> None:
    neighbour = Neighbour(daemon)
    before = daemon.call.Stats(pb.StatsRequest()).daemon.resident_bytes
    over = threading.Event()
    asked = [0] * 8

    def flood(number: int) -> None:
        client = Daemon(daemon.root)
        client.connect()
        while not over.is_set():
            calls = [client.call.List.future(pb.ListRequest()) for _ in range(100)]
            for call in calls:
                with contextlib.suppress(grpc.RpcError):
                    call.result()
                asked[number] += 1
        client.hang_up()

    threads = [threading.Thread(target=flood, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    try:
        for _ in range(5):
            neighbour.ask()
            daemon.delete(daemon.run("/bin/true"))
    finally:
        over.set()
        for t in threads:
            t.join()
    assert sum(asked) > 1000, "the flood was a trickle"
    # All clients share this test's interpreter and the two cores: seconds, but never without an answer.
    assert neighbour.worst < 10, neighbour.worst
    assert daemon.call.Stats(pb.StatsRequest()).daemon.resident_bytes - before < 32 << 20


@pytest.mark.parametrize("pools", [False, True], ids=["created", "claimed"])
@pytest.mark.parametrize("cycles", [300, pytest.param(10_000, marks=pytest.mark.full)])
def test_create_and_delete_leaves_nothing(daemon: Daemon, cycles: int, pools: bool) -> None:
    """Descriptors and memory of daemon and spawners are as flat after all cycles as after the first tenth."""
    if pools:
        daemon.template("t", policy="version = 1", pool=2)

    def look() -> dict[str, tuple[int, int]]:
        # What was asked for last is still being done: deletions, and instances in the place of those that were claimed.
        deadline = time.monotonic() + 10.0
        while pools and daemon.call.ListTemplates(pb.ListTemplatesRequest()).templates[0].pooled < 2:
            assert time.monotonic() < deadline, "the pool is not filled again"
            time.sleep(0.02)
        time.sleep(1.0)
        sizes = {}
        for pid in [daemon.pid, *daemon.spawner_pids()]:
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            status = Path(f"/proc/{pid}/status").read_text()
            sizes[str(pid)] = (files, int(status.split("VmRSS:")[1].split()[0]))
        return sizes

    def cycle(n: int) -> None:
        for _ in range(n):
            id = daemon.claim("t", "-c", "pass").id if pools else daemon.run("/bin/true")
            daemon.delete(id)

    threads = [threading.Thread(target=cycle, args=(cycles // 20,)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    first = look()
    threads = [threading.Thread(target=cycle, args=(cycles * 9 // 20,)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    last = look()
    assert last.keys() == first.keys()
    for pid, (files, kib) in last.items():
        assert abs(files - first[pid][0]) <= 3, (first, last)
        assert kib - first[pid][1] < 4096, (first, last)
