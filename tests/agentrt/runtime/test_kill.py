"""kill -9 of the daemon and of its spawners: agents live on, nothing is lost, nothing is done twice, nothing leaks.

Every agent says "run" once a run, so that effects are counted by what ran, not by what the daemon believes.
"""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.agentrt.runtime.daemon import Daemon, new_id, pb
from tests.agentrt.runtime.host import look

COUNTED = ("/bin/sh", "-c", "echo run; exec sleep 100000")
CLAIMED = "print('run', flush=True)\nimport time\ntime.sleep(100000)"
RUNNING, PAUSED, EXITED = pb.STATE_RUNNING, pb.STATE_PAUSED, pb.STATE_EXITED


def again(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def runs(daemon: Daemon, id: str) -> int:
    return daemon.logs(id).count(b"run\n")


def until(what: Any, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def test_created(daemon: Daemon) -> None:
    id = daemon.create(*COUNTED)
    again(daemon)
    assert daemon.agent(id).state == pb.STATE_CREATED
    daemon.start_agent(id)
    until(lambda: runs(daemon, id) == 1)


def test_running_and_its_output_goes_on(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done")
    pid = daemon.agent(id).pid
    daemon.kill()
    time.sleep(0.3)
    daemon.start()
    agent = daemon.agent(id)
    assert (agent.state, agent.pid, agent.restarts) == (RUNNING, pid, 0)
    until(lambda: len(daemon.logs(id).split()) > 30)
    numbers = [int(n) for n in daemon.logs(id).split()]
    assert numbers == list(range(len(numbers)))
    assert daemon.exec(id, "/bin/echo", "still there")[1] == b"still there\n"


def test_paused(daemon: Daemon) -> None:
    id = daemon.run(*COUNTED)
    daemon.call.Pause(pb.PauseRequest(id=id))
    pid = daemon.agent(id).pid
    again(daemon)
    assert (daemon.agent(id).state, daemon.agent(id).pid) == (PAUSED, pid)
    daemon.call.Resume(pb.ResumeRequest(id=id))
    assert daemon.exec(id, "/bin/true")[0] == 0


def test_stopping(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "trap '' TERM; echo run; while :; do sleep 0.05; done")
    until(lambda: runs(daemon, id) == 1)
    key = new_id()
    request = pb.StopRequest(id=id, grace_ms=1000, request_id=key)
    stop = daemon.call.Stop.future(request)
    until(lambda: daemon.agent(id).state == pb.STATE_STOPPING)
    again(daemon)
    assert stop.exception() is not None
    assert daemon.agent(id).state == pb.STATE_STOPPING
    exit = daemon.call.Stop(request, timeout=20).agent.last_exit
    assert (exit.reason, exit.signal) == (pb.EXIT_REASON_STOPPED, 9)


def test_exited_while_nobody_looked(daemon: Daemon) -> None:
    """Ends that happened while there was no daemon are learnt with their true reason."""
    code = daemon.run("/bin/sh", "-c", "sleep 0.3; exit 42")
    killed = daemon.run("/bin/sh", "-c", "sleep 0.3; kill -11 $$")
    hog = daemon.run(
        "/usr/bin/python3",
        "-c",
        "import time; time.sleep(0.3); x = bytearray(200 << 20)",
        policy='version = 1\n[limits]\nmemory = "64 MiB"\n',
    )
    outside = daemon.run()
    pid = daemon.agent(outside).pid
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    time.sleep(1.2)
    daemon.start()
    ends = {id: daemon.wait(id).last_exit for id in (code, killed, hog, outside)}
    assert (ends[code].reason, ends[code].code) == (pb.EXIT_REASON_EXITED, 42)
    assert (ends[killed].reason, ends[killed].signal) == (pb.EXIT_REASON_SIGNAL, 11)
    assert ends[hog].reason == pb.EXIT_REASON_OOM
    assert ends[outside].reason == pb.EXIT_REASON_KILLED


def test_backoff_and_crash_loop(daemon: Daemon) -> None:
    restart = pb.RestartPolicy(when=pb.RestartPolicy.WHEN_ON_FAILURE, first_delay_ms=600, crash_loop_after=2)
    id = daemon.run("/bin/sh", "-c", "echo run; exit 1", restart=restart)
    daemon.wait(id, pb.STATE_BACKOFF)
    until(lambda: daemon.agent(id).failures_in_row == 2)
    again(daemon)
    agent = daemon.wait(id, pb.STATE_CRASH_LOOP)
    assert (agent.failures_in_row, runs(daemon, id)) == (3, 3)
    again(daemon)
    agent = daemon.agent(id)
    assert agent.state == pb.STATE_CRASH_LOOP
    assert 30_000 < agent.next_start_in_ms <= 60_000
    assert daemon.call.Stop(pb.StopRequest(id=id)).agent.state == EXITED


def test_starting(daemon: Daemon) -> None:
    """The daemon dies at every moment of a Start; the same request, asked again, has led to one run."""
    for delay_ms in range(16):
        id = daemon.create(*COUNTED)
        key = new_id()
        start = daemon.call.Start.future(pb.StartRequest(id=id, request_id=key))
        time.sleep(delay_ms / 1000)
        again(daemon)
        with contextlib.suppress(grpc.RpcError):
            start.result()
        agent = daemon.start_agent(id, request_id=key)
        assert agent.state == RUNNING, delay_ms
        until(lambda id=id: runs(daemon, id) >= 1)
        time.sleep(0.01)
        assert runs(daemon, id) == 1, delay_ms
        daemon.delete(id)


def test_deleting(daemon: Daemon) -> None:
    for delay_ms in range(12):
        id = daemon.run(*COUNTED)
        key = new_id()
        request = pb.DeleteRequest(id=id, force=True, request_id=key)
        delete = daemon.call.Delete.future(request)
        time.sleep(delay_ms / 1000)
        again(daemon)
        with contextlib.suppress(grpc.RpcError):
            delete.result()
        daemon.call.Delete(request, timeout=20)
        assert not daemon.call.List(pb.ListRequest()).agents, delay_ms
        assert not list((daemon.root / "agents").iterdir())


def test_creating(daemon: Daemon) -> None:
    for delay_ms in range(12):
        request = pb.CreateRequest(id="x", request_id=new_id(), spec=pb.AgentSpec(argv=COUNTED))
        create = daemon.call.Create.future(request)
        time.sleep(delay_ms / 1000)
        again(daemon)
        with contextlib.suppress(grpc.RpcError):
            create.result()
        assert daemon.call.Create(request, timeout=20).agent.state == pb.STATE_CREATED, delay_ms
        daemon.delete("x")


def test_a_broken_off_exec_is_not_run_twice(daemon: Daemon) -> None:
    id = daemon.run()
    begin = pb.ExecRequest.Begin(id=id, argv=["/bin/sh", "-c", "echo >> n; sleep 2"], request_id=new_id())
    call = daemon.call.Exec(iter([pb.ExecRequest(begin=begin)]))
    assert next(call).started > 0
    until(lambda: daemon.exec(id, "/bin/cat", "n")[1] == b"\n")
    again(daemon)
    with pytest.raises(grpc.RpcError, match="restarted while it did this"):
        list(daemon.call.Exec(iter([pb.ExecRequest(begin=begin)])))
    assert daemon.exec(id, "/bin/cat", "n")[1] == b"\n"


def test_spawners_die(daemon: Daemon) -> None:
    """Agents live on, the spawner comes again, execs and starts go on; ends are still learnt with their reason."""
    ids = [daemon.run("/bin/sh", "-c", "echo run; read x; exit 9", stdin=True) for _ in range(4)]
    pids = {id: daemon.agent(id).pid for id in ids}
    for _ in range(3):
        for pid in daemon.spawner_pids():
            os.kill(pid, signal.SIGKILL)
        for id in ids:
            until(lambda id=id: works(daemon, id))
        assert {id: daemon.agent(id).pid for id in ids} == pids
        assert all(runs(daemon, id) == 1 for id in ids)
        daemon.delete(daemon.run(*COUNTED))
    assert len(daemon.spawner_pids()) == 2
    assert daemon.call.Stats(pb.StatsRequest()).daemon.spawner_restarts >= 3
    code, _, _ = daemon.exec(ids[0], "/bin/sh", "-c", "exit 5")
    assert code == 5
    with (daemon.root / "agents" / ids[0] / "stdin").open("w") as stdin:
        stdin.write("go\n")
    exit = daemon.wait(ids[0]).last_exit
    assert (exit.reason, exit.code) == (pb.EXIT_REASON_EXITED, 9)


def works(daemon: Daemon, id: str) -> bool:
    try:
        return daemon.exec(id, "/bin/true")[0] == 0
    except grpc.RpcError:
        return False


@pytest.mark.parametrize("who", ["spawner", "daemon, then spawner"])
def test_a_workspace_outlives_the_spawner_that_made_it(daemon: Daemon, who: str) -> None:
    """The daemon holds it too, also one that has taken the agent over: a restart by another spawner finds its files."""
    id = daemon.run("/bin/sh", "-c", "cat note; echo was here >> note; read x", stdin=True)
    until(lambda: daemon.exec(id, "/bin/cat", "note")[1] == b"was here\n")
    if who != "spawner":
        again(daemon)
        until(lambda: daemon.events()[-1].kind == "adopted")
    before = daemon.spawner_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: works(daemon, id))
    assert not set(before) & set(daemon.spawner_pids())
    daemon.call.Kill(pb.KillRequest(id=id))
    daemon.start_agent(id)
    until(lambda: b"was here\n" in daemon.logs(id))
    assert daemon.exec(id, "/bin/cat", "note")[1] == b"was here\nwas here\n"


def test_spawners_die_while_they_launch(daemon: Daemon) -> None:
    """A launch whose spawner dies beneath it is done again; nothing of the first try is left."""
    dice = random.Random(7)
    for _ in range(15):
        id = daemon.create(*COUNTED)
        start = daemon.call.Start.future(pb.StartRequest(id=id))
        time.sleep(dice.random() * 0.008)
        for pid in daemon.spawner_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent = start.result(timeout=20).agent
        assert agent.state == RUNNING
        until(lambda id=id: runs(daemon, id) >= 1)
        own = [p for p, words in look(daemon.root).processes.items() if "sleep" in words]
        assert len(own) == 1, own
        daemon.delete(id)


class Client(threading.Thread):
    """One agent's client: it asks for verb after verb, each until it is answered, and knows what must be true then."""

    def __init__(self, daemon: Daemon, seed: int, template: str = "") -> None:
        # Where a test fails nobody tells it that it is over.
        super().__init__(daemon=True)
        self.d, self.dice, self.template = daemon, random.Random(seed), template
        self.id = f"c{seed}"
        self.state, self.runs, self.pid = "none", 0, 0
        self.over = threading.Event()
        self.problem: BaseException | None = None
        self.asked = 0

    def ask(self, verb: str, request: Any) -> Any:
        """Asks until there is an answer of a daemon: only a connection that broke is asked again."""
        while True:
            try:
                return getattr(self.d.call, verb)(request, timeout=20)
            except (grpc.RpcError, ValueError, AttributeError) as error:
                code = error.code() if isinstance(error, grpc.RpcError) else None
                broken = code in (None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
                if not broken:
                    raise
                time.sleep(0.003)

    def step(self) -> None:
        key = new_id()
        id = self.id
        if self.state == "none" and self.template:
            claim = pb.ClaimRequest(request_id=key, id=id, template=self.template, argv=["-c", CLAIMED])
            self.pid = self.ask("Claim", claim).agent.pid
            self.state, self.runs = "running", 1
            until(self.began)
        elif self.state == "none":
            self.ask("Create", pb.CreateRequest(request_id=key, id=id, spec=pb.AgentSpec(argv=COUNTED)))
            self.state, self.runs = "created", 0
        elif self.state in ("created", "exited"):
            if self.template or (self.state == "exited" and self.dice.random() < 0.3):
                self.ask("Delete", pb.DeleteRequest(request_id=key, id=id))
                self.state = "none"
                return
            self.pid = self.ask("Start", pb.StartRequest(request_id=key, id=id)).agent.pid
            self.state, self.runs = "running", self.runs + 1
        elif self.state == "running":
            move = self.dice.choice(["Pause", "Stop", "Kill", "Delete", "Update", "look"])
            if move == "Pause":
                self.ask("Pause", pb.PauseRequest(request_id=key, id=id))
                self.state = "paused"
            elif move == "Stop":
                self.ask("Stop", pb.StopRequest(request_id=key, id=id))
                self.state = "exited"
            elif move == "Kill":
                self.ask("Kill", pb.KillRequest(request_id=key, id=id))
                self.state = "exited"
            elif move == "Delete":
                self.ask("Delete", pb.DeleteRequest(request_id=key, id=id, force=True))
                self.state = "none"
            elif move == "Update":
                limits = pb.Limits(pids=self.dice.randint(20, 200))
                self.ask("Update", pb.UpdateRequest(request_id=key, id=id, limits=limits))
        elif self.state == "paused":
            self.ask("Resume", pb.ResumeRequest(request_id=key, id=id))
            self.state = "running"
        self.check()

    def began(self) -> bool:
        """Whether what was claimed does what it was told, whoever was killed before it could be told to begin."""
        try:
            return runs(self.d, self.id) == 1
        except (grpc.RpcError, ValueError, AttributeError):
            return False

    def check(self) -> None:
        agents = self.ask("List", pb.ListRequest()).agents
        mine = [a for a in agents if a.id == self.id]
        if self.state == "none":
            assert not mine, mine
            return
        words = {"created": pb.STATE_CREATED, "running": RUNNING, "paused": PAUSED, "exited": EXITED}
        assert mine, (self.id, self.state)
        assert mine[0].state == words[self.state], (mine[0], self.state)
        if self.state in ("running", "paused"):
            assert mine[0].pid == self.pid, "it is not the run that was started"
            assert Path(f"/proc/{self.pid}").exists()

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.step()
                self.asked += 1
        except BaseException as problem:
            self.problem = problem


@pytest.mark.parametrize("pools", [False, True], ids=["created", "claimed"])
@pytest.mark.parametrize("rounds", [100, pytest.param(1000, marks=pytest.mark.full)])
def test_killed_at_random_moments(daemon: Daemon, rounds: int, pools: bool) -> None:
    """Four clients drive four agents through all verbs while the daemon is killed again and again."""
    dice = random.Random(rounds)
    if pools:
        daemon.template("t", policy="version = 1", pool=3)
        daemon.template("u", policy="version = 1", pool=1, no_fork=True)
    clients = [Client(daemon, seed, ("t", "t", "t", "u")[seed] if pools else "") for seed in range(4)]
    for client in clients:
        client.start()
    for round in range(rounds):
        # A pool that is done away with before it is made shows nothing.
        time.sleep(dice.random() * (0.4 if pools else 0.12))
        again(daemon)
        problems = [c.problem for c in clients if c.problem is not None]
        assert not problems, (round, problems, daemon.said()[-2000:])
    for client in clients:
        client.over.set()
    for client in clients:
        client.join(60)
        assert client.problem is None, client.problem
        # An instance that is not forked takes an interpreter's start, and most are killed on the way.
        least = 0 if client.template == "u" else rounds / 10
        assert client.asked > least, "the client came to nothing: the kills proved nothing"
    for client in clients:
        if client.state in ("running", "paused", "exited"):
            # At most: an agent that was killed at once may not have come to say so.
            assert runs(daemon, client.id) <= client.runs, "a Start had two effects"
    seqs = [e.seq for e in daemon.events()]
    assert seqs == list(range(1, len(seqs) + 1)), "an event was lost, or came twice"


def test_events_resumed_over_restarts_miss_nothing(daemon: Daemon) -> None:
    """A watcher that goes on from the last number it saw gets every event of every agent, once, in order."""
    seen: list[Any] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(grpc.RpcError, ValueError, AttributeError):
                after = seen[-1].seq if seen else 0
                seen.extend(daemon.call.Events(pb.EventsRequest(after=after, follow=True), timeout=30))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    dice = random.Random(3)
    client = Client(daemon, 77)
    client.start()
    for _ in range(20):
        time.sleep(dice.random() * 0.2)
        again(daemon)
    client.over.set()
    client.join(60)
    assert client.problem is None, client.problem
    last = daemon.call.Info(pb.InfoRequest()).last_event
    until(lambda: seen and seen[-1].seq >= last)
    over.set()
    again(daemon)
    watcher.join(30)
    assert [e.seq for e in seen] == list(range(1, len(seen) + 1))
    stored = daemon.events()
    assert [(e.seq, e.agent, e.kind, e.revision) for e in stored][: len(seen)] == [
        (e.seq, e.agent, e.kind, e.revision) for e in seen
    ]
    revisions: dict[str, int] = {}
    for event in stored:
        assert event.revision == revisions.get(event.agent, 0) + 1, event
        revisions[event.agent] = 0 if event.kind == "deleted" else event.revision


def test_a_second_daemon_is_refused(daemon: Daemon) -> None:
    other = Daemon(daemon.root)
    other.socket = daemon.root / "other.sock"
    other.errors = daemon.root.with_name("other.err")
    with pytest.raises(RuntimeError, match="another daemon serves"):
        other.start()
