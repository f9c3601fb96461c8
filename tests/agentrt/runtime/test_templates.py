"""Templates, pools and claims: agents that are forked, ready, from a program that has its imports done."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.agentrt.runtime.daemon import Daemon, new_id, pb, programs

POLICY = """version = 1
[limits]
memory = "128MiB"
processes = 20
"""
SLEEP = ("-c", "import time; time.sleep(1000)")


def until(what: Callable[[], Any], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def look(daemon: Daemon, name: str = "t") -> Any:
    templates = daemon.call.ListTemplates(pb.ListTemplatesRequest()).templates
    return next(t for t in templates if t.name == name)


def said(daemon: Daemon, *argv: str, **claim: Any) -> Any:
    """What a claimed agent prints, as JSON; it has to end well."""
    id = daemon.claim("t", *argv, **claim).id
    exit = daemon.wait(id).last_exit
    assert (exit.reason, exit.code) == (pb.EXIT_REASON_EXITED, 0), (exit, daemon.logs(id))
    return json.loads(daemon.logs(id))


ABOUT = """
import json, os, random, socket, sys, uuid
print(json.dumps({
    "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd(), "uid": os.getuid(), "defined": word,
    "machine": open("/etc/machine-id").read(), "host": socket.gethostname(), "random": random.random(),
    "uuid": str(uuid.uuid4()), "imported": "decimal" in sys.modules, "main": __name__,
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd")),
    "processes": sorted(n for n in os.listdir("/proc") if n.isdigit()),
}))
"""


@pytest.mark.parametrize("no_fork", [False, True])
def test_claimed_agents_are_ready_and_each_its_own(daemon: Daemon, no_fork: bool) -> None:
    made = daemon.template("t", policy=POLICY, imports=["decimal", "random"], setup="word = 7", pool=2, no_fork=no_fork)
    assert (made.name, made.pid > 0) == ("t", not no_fork)
    until(lambda: look(daemon).pooled == 2)
    seen = [said(daemon, "-c", ABOUT, "one", env={"X": "y"}) for _ in range(3)]
    for about in seen:
        assert about["argv"] == ["-c", "one"]
        assert about["env"] == {"X": "y", "HOME": "/workspace", "PATH": about["env"]["PATH"]}
        assert (about["cwd"], about["uid"], about["defined"], about["main"]) == ("/workspace", 1000, 7, "__main__")
        assert about["imported"]
        # Its streams, and the listing's own.
        assert about["descriptors"] == [0, 1, 2, 3]
        assert len(about["processes"]) == 1
    for word in ("machine", "host", "random", "uuid"):
        assert len({about[word] for about in seen}) == 3, word
    agents = daemon.call.List(pb.ListRequest()).agents
    assert {a.template for a in agents} == {"t"}
    assert [e.kind for e in daemon.events(id=agents[0].id)] == ["claimed", "exited"]
    with pytest.raises(grpc.RpcError, match="claim another one"):
        daemon.start_agent(agents[0].id)
    with pytest.raises(grpc.RpcError, match="3 agents; delete them first"):
        daemon.call.DeleteTemplate(pb.DeleteTemplateRequest(name="t"))


HOOKS = """
import json, os, random, threading
state = random.getstate()
read, write = os.pipe()
if os.fork() == 0:
    # A lock held by nobody that is here, and numbers that the parent draws too, are what hooks are for.
    os.write(write, json.dumps([random.getstate() != state, threading.current_thread().name, ran[-1]]).encode())
    os._exit(0)
os.wait()
print(json.dumps({"child": json.loads(os.read(read, 999)), "ran": ran, "alive": threading.active_count()}))
"""


@pytest.mark.parametrize("no_fork", [False, True])
def test_hooks_for_forks_run_where_they_are_needed(daemon: Daemon, no_fork: bool) -> None:
    """Those of libraries at every fork; those of the standard library when the agent's own program forks."""
    setup = (
        "import os, random, threading\nran = []\n"
        "os.register_at_fork(before=lambda: ran.append('before'), after_in_child=lambda: ran.append('child'))\n"
        "before = random.getstate()\nread, write = os.pipe()\n"
        "if os.fork() == 0: os.write(write, b'other' if random.getstate() != before else b'same'); os._exit(0)\n"
        "os.wait()\nassert os.read(read, 9) == b'other'\nos.close(read); os.close(write); del ran[:]\n"
    )
    daemon.template("t", policy=POLICY, imports=["logging", "random"], setup=setup, no_fork=no_fork)
    seen = said(daemon, "-c", HOOKS)
    by_seed = [] if no_fork else ["before", "child"]
    assert seen == {"child": [True, "MainThread", "child"], "ran": [*by_seed, "before"], "alive": 1}


def test_what_runs_is_a_file_or_a_module_too(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY)
    id = daemon.claim("t", "-m", "calendar", "2026", "11").id
    assert daemon.wait(id).last_exit.code == 0
    assert b"November 2026" in daemon.logs(id)
    id = daemon.claim("t", "/no/such.py").id
    assert daemon.wait(id).last_exit.code == 1
    assert b"/no/such.py" in daemon.logs(id)
    id = daemon.claim("t", "-c", "raise SystemExit(9)").id
    assert daemon.wait(id).last_exit.code == 9


def test_verbs_of_agents_hold_for_claimed_ones(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY, pool=1)
    agent = daemon.claim("t", *SLEEP, labels={"a": "b"}, ttl_ms=600_000, limits=pb.Limits(pids=9))
    assert (agent.state, agent.labels["a"], agent.limits.pids) == (pb.STATE_RUNNING, "b", 9)
    assert any(line.startswith("landlock files") for line in agent.enforced)
    assert daemon.exec(agent.id, "/bin/sh", "-c", "echo x > note; id -u")[1] == b"1000\n"
    assert daemon.exec(agent.id, "/bin/cat", "note")[1] == b"x\n"
    assert daemon.call.Pause(pb.PauseRequest(id=agent.id)).agent.state == pb.STATE_PAUSED
    assert daemon.call.Resume(pb.ResumeRequest(id=agent.id)).agent.state == pb.STATE_RUNNING
    stats = daemon.stats(agent.id)
    assert stats.memory_bytes > 0
    assert stats.pids >= 2
    exit = daemon.call.Stop(pb.StopRequest(id=agent.id)).agent.last_exit
    assert (exit.reason, exit.signal) == (pb.EXIT_REASON_STOPPED, signal.SIGTERM)


def test_the_policy_holds(daemon: Daemon) -> None:
    """Memory, processes, denied calls, limits of a process: as for an agent that was started."""
    daemon.template("t", policy=POLICY + "open_files = 99\n", pool=1)
    hog = daemon.claim("t", "-c", "x = bytearray(300 << 20)")
    assert daemon.wait(hog.id).last_exit.reason == pb.EXIT_REASON_OOM
    bomb = """
import os, resource
made = 0
try:
    while True:
        if os.fork() == 0:
            import time; time.sleep(100)
        made += 1
except BlockingIOError:
    print(made, resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    id = daemon.claim("t", "-c", bomb).id
    assert daemon.wait(id).last_exit.code == 0
    assert daemon.logs(id) == b"18 (99, 99)\n"
    denied = "import ctypes; libc = ctypes.CDLL(None); print(libc.ptrace(0, 0, 0, 0), libc.unshare(0x10000000))"
    id = daemon.claim("t", "-c", denied).id
    assert daemon.wait(id).last_exit.code == 0
    assert daemon.logs(id) == b"-1 -1\n"


SCAN = """
import re, sys
# Whoever looks for a word must not have it in its own memory: it comes in halves.
halves = sys.argv[1].encode(), sys.argv[2].encode()
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        bounds, mode = line.split()[:2]
        if "r" not in mode or "[v" in line:
            continue
        low, high = (int(x, 16) for x in bounds.split("-"))
        try:
            memory.seek(low)
            data = memory.read(high - low)
        except (OSError, ValueError):
            continue
        at = data.find(halves[0])
        while at >= 0:
            found += data[at + len(halves[0]):][:len(halves[1])] == halves[1]
            at = data.find(halves[0], at + 1)
print(found)
"""
SECRET = """
import fcntl, os, sys
fd = int(os.environ["GPVE_SECRET_KEY_FD"])
text = os.read(fd, 100).decode()
try:
    os.write(fd, b"x")
except OSError as error:
    print(error.errno)
print(text[::-1], [v for v in os.environ.values() if text in v], text in open("/proc/self/environ").read())
sys.stdout.flush()
import time; time.sleep(100)
"""


def test_secrets_stay_with_the_agent_that_they_were_given_to(daemon: Daemon) -> None:
    """They lie in sealed memory, not in the environment, not on disk; a neighbour that scans all it has finds none."""
    daemon.template("t", policy=POLICY, imports=["re"], pool=2)
    left, right = "hunter2-" + new_id()[:12], "-" + new_id()[:12]
    owner = daemon.claim("t", "-c", SECRET, secrets={"KEY": left + right})
    until(lambda: daemon.logs(owner.id).count(b"\n") == 2)
    assert daemon.logs(owner.id).decode().split("\n")[:2] == ["1", f"{(left + right)[::-1]} [] False"]
    until(lambda: look(daemon).pooled == 2)
    for neighbour in (daemon.claim("t", "-c", SCAN, left, right), daemon.claim("t", "-c", SCAN, left, right)):
        assert daemon.wait(neighbour.id).last_exit.code == 0
        assert daemon.logs(neighbour.id) == b"0\n"
    # The scan finds what is there to be found.
    finds = f"word = {left + right!r}\n" + SCAN
    mine = daemon.claim("t", "-c", finds, left, right)
    assert daemon.wait(mine.id).last_exit.code == 0
    assert int(daemon.logs(mine.id)) > 0
    secret = (left + right).encode()
    for file in daemon.root.rglob("*"):
        if file.is_file() and daemon.agent(mine.id).id not in str(file):
            assert secret not in file.read_bytes(), file


def test_an_empty_pool_makes_one_on_demand_and_a_pool_grows_and_shrinks(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY)
    daemon.claim("t", *SLEEP)
    assert look(daemon).pooled == 0
    daemon.call.SetPool(pb.SetPoolRequest(name="t", size=5))
    until(lambda: look(daemon).pooled == 5)
    daemon.call.SetPool(pb.SetPoolRequest(name="t", size=1))
    until(lambda: look(daemon).pooled == 1)
    assert look(daemon).agents == 1
    ids = [f.result().agent.id for f in [claim_later(daemon) for _ in range(12)]]
    assert len(set(ids)) == 12
    assert all(a.state == pb.STATE_RUNNING for a in daemon.call.List(pb.ListRequest()).agents)


def claim_later(daemon: Daemon) -> Any:
    return daemon.call.Claim.future(pb.ClaimRequest(template="t", argv=SLEEP))


def test_one_request_is_one_claim(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY, pool=1)
    request = pb.ClaimRequest(template="t", argv=SLEEP, request_id=new_id())
    first = daemon.call.Claim(request).agent.id
    assert daemon.call.Claim(request).agent.id == first
    daemon.kill()
    daemon.start()
    assert daemon.call.Claim(request).agent.id == first


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"imports": ["no_such_module"]}, "ModuleNotFoundError.*no_such_module"),
        ({"setup": "1/0"}, "ZeroDivisionError"),
        (
            {"setup": "import threading, time; threading.Thread(target=time.sleep, args=(9,), name='busy').start()"},
            "busy",
        ),
        ({"setup": "import time; time.sleep(100)", "ready_timeout_ms": 300}, "within 300 ms"),
        ({"python": "/no/python"}, "/no/python"),
        ({"python": "python3"}, "absolute"),
        ({"imports": ["os; import sys"]}, "no name of a module"),
        ({"policy": 'version = 1\nlevel = "L2"'}, "L3"),
        ({"policy": "version = 1\n[identity]\nuid = 0"}, "identity"),
        ({"pool": 9, "max_agents": 3}, "max_agents"),
    ],
)
def test_a_template_that_cannot_be_is_refused_and_leaves_nothing(daemon: Daemon, spec: Any, words: str) -> None:
    with pytest.raises(grpc.RpcError, match=words):
        daemon.template("t", **{"policy": POLICY, **spec})
    assert not daemon.call.ListTemplates(pb.ListTemplatesRequest()).templates


def test_bad_claims_are_refused(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY, max_agents=1)
    for claim, words in [
        ({"template": "none"}, "no template"),
        ({"argv": []}, "what to run is missing"),
        ({"argv": ["-c"]}, "nothing behind"),
        ({"secrets": {"a/b": "x"}}, "secrets"),
        ({"limits": pb.Limits(memory_bytes=1 << 40)}, "only narrow"),
    ]:
        with pytest.raises(grpc.RpcError, match=words):
            daemon.call.Claim(pb.ClaimRequest(**{"template": "t", "argv": SLEEP, **claim}))
    only = daemon.claim("t", *SLEEP)
    with pytest.raises(grpc.RpcError, match="all 1 of its agents live"):
        daemon.claim("t", *SLEEP)
    daemon.delete(only.id)
    daemon.claim("t", *SLEEP)


def test_the_daemon_is_killed_again_and_again(daemon: Daemon) -> None:
    """Claimed agents live on; seeds and waiting instances come again, and nothing of the old ones is left."""
    daemon.template("t", policy=POLICY, imports=["decimal"], pool=3)
    daemon.template("u", policy=POLICY, no_fork=True, pool=1)
    ids = [daemon.claim("t", *SLEEP).id, daemon.claim("u", *SLEEP).id]
    pids = [daemon.agent(id).pid for id in ids]
    for round in range(6):
        time.sleep(0.05 * round)
        daemon.kill()
        daemon.start()
        assert [daemon.agent(id).pid for id in ids] == pids
        assert [daemon.agent(id).state for id in ids] == [pb.STATE_RUNNING] * 2
    until(lambda: look(daemon).pooled == 3 and look(daemon, "u").pooled == 1)
    assert said(daemon, "-c", "import sys; print(int('decimal' in sys.modules))") == 1
    assert daemon.exec(ids[0], "/bin/true")[0] == 0


def test_seeds_and_spawners_die(daemon: Daemon) -> None:
    daemon.template("t", policy=POLICY, pool=2)
    first = daemon.claim("t", *SLEEP)
    until(lambda: look(daemon).pooled == 2)
    os.kill(look(daemon).pid, signal.SIGKILL)
    until(lambda: look(daemon).pid == 0 or look(daemon).problem)
    second = daemon.claim("t", *SLEEP)
    for pid in daemon.spawner_pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: claims(daemon))
    assert [daemon.agent(a.id).pid for a in (first, second)] == [first.pid, second.pid]
    assert all(Path(f"/proc/{a.pid}").exists() for a in (first, second))


def test_a_seed_that_hangs_holds_nobody_else_up(daemon: Daemon) -> None:
    """Agents of the same spawner start at once while it hangs; who waits for its fork is told, and it is taken back."""
    daemon.template("t", policy=POLICY)
    daemon.delete(daemon.claim("t", *SLEEP).id)
    seed = look(daemon).pid
    (program,) = Path(f"/proc/{seed}/task/{seed}/children").read_text().split()
    os.kill(int(program), signal.SIGSTOP)
    began = time.monotonic()
    waits = daemon.call.Claim.future(pb.ClaimRequest(template="t", argv=SLEEP))
    time.sleep(0.2)
    for _ in range(6):
        daemon.run("/bin/sleep", "1000", policy=POLICY)
    assert time.monotonic() - began < 1.5
    assert not waits.done()
    with pytest.raises(grpc.RpcError, match="not forked within 2 s"):
        waits.result()
    os.kill(int(program), signal.SIGCONT)
    until(lambda: claims(daemon, 0))


def claims(daemon: Daemon, pooled: int = 2) -> bool:
    try:
        daemon.delete(daemon.claim("t", "-c", "pass").id)
    except grpc.RpcError:
        return False
    return bool(look(daemon).pooled == pooled)


@pytest.mark.parametrize("options", [[], ["--forks"]], ids=["claimed", "forked"])
def test_no_attack_gets_out_of_an_instance(daemon: Daemon, options: list[str]) -> None:
    """The suite of attacks, each in an instance that waited for it, or in a fork of one: as in a sandbox of its own."""
    suite = programs() / "gpve-attack-suite"
    if not suite.exists():
        pytest.skip("the attack suite is not built here (make agentrt)")
    command = [suite, "--claim", programs() / "gpve-agentrt", daemon.socket, *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failed = [row for row in rows if "FAILED" in str(row)]
    assert not failed, failed
    summary = rows[-1]
    assert summary["failures"] == 0, done.stderr
    assert min(summary["counted"], summary["runs"]) >= 80, summary
