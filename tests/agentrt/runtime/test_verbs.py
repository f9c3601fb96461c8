"""Every verb against the real daemon, in the real sandbox."""

import queue
import threading
import time
from typing import Any

import grpc
import pytest

from tests.agentrt.runtime.daemon import SLEEP, Daemon, new_id, pb


def refused(code: grpc.StatusCode, *words: str) -> Any:
    """The call inside is refused with this code, in one sentence that has these words."""

    class Refused:
        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
            assert isinstance(error, grpc.RpcError), f"it was not refused ({error!r})"
            assert error.code() == code, (error.code(), error.details())
            for word in words:
                assert word in error.details(), error.details()
            assert "\n" not in error.details()
            return True

    return Refused()


def test_a_life(daemon: Daemon) -> None:
    id = daemon.create("/bin/sh", "-c", "echo out; echo err >&2; exit 7", id="one")
    assert id == "one"
    assert daemon.agent("one").state == pb.STATE_CREATED
    daemon.start_agent("one")
    exit = daemon.wait("one").last_exit
    assert (exit.reason, exit.code) == (pb.EXIT_REASON_EXITED, 7)
    chunks = list(daemon.call.Logs(pb.LogsRequest(id="one")))
    streams = {c.stream: b"".join(x.data for x in chunks if x.stream == c.stream) for c in chunks}
    assert streams == {pb.LogChunk.STREAM_STDOUT: b"out\n", pb.LogChunk.STREAM_STDERR: b"err\n"}
    daemon.delete("one")
    with refused(grpc.StatusCode.NOT_FOUND, "one"):
        daemon.agent("one")
    assert [e.kind for e in daemon.events()] == ["created", "starting", "running", "exited", "deleting", "deleted"]
    assert [e.seq for e in daemon.events()] == [1, 2, 3, 4, 5, 6]


def test_it_may_be_started_again_and_its_files_are_still_there(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "cat note 2>/dev/null; echo was here > note")
    daemon.wait(id)
    daemon.start_agent(id)
    daemon.wait(id)
    assert daemon.logs(id) == b"was here\n"


def test_stop_asks_first_and_kills_after_the_grace(daemon: Daemon) -> None:
    polite = daemon.run("/bin/sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    stubborn = daemon.run("/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    until_logged(daemon, polite, b"up")
    until_logged(daemon, stubborn, b"up")
    exit = daemon.call.Stop(pb.StopRequest(id=polite)).agent.last_exit
    assert (exit.reason, exit.code) == (pb.EXIT_REASON_STOPPED, 3)
    assert daemon.logs(polite).endswith(b"bye\n")
    began = time.monotonic()
    exit = daemon.call.Stop(pb.StopRequest(id=stubborn, grace_ms=300)).agent.last_exit
    assert (exit.reason, exit.signal) == (pb.EXIT_REASON_STOPPED, 9)
    assert 0.3 <= time.monotonic() - began < 3


def until_logged(daemon: Daemon, id: str, data: bytes, timeout: float = 10) -> bytes:
    deadline = time.monotonic() + timeout
    while data not in (logged := daemon.logs(id)):
        assert time.monotonic() < deadline, logged
        time.sleep(0.01)
    return logged


def test_kill_and_other_signals(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done")
    until_logged(daemon, id, b"up")
    daemon.call.Kill(pb.KillRequest(id=id, signal=10))
    until_logged(daemon, id, b"usr1")
    assert daemon.agent(id).state == pb.STATE_RUNNING
    exit = daemon.call.Kill(pb.KillRequest(id=id)).agent.last_exit
    assert (exit.reason, exit.signal) == (pb.EXIT_REASON_STOPPED, 9)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id, "exited"):
        daemon.call.Kill(pb.KillRequest(id=id, signal=10))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "777"):
        daemon.call.Kill(pb.KillRequest(id=id, signal=777))


def test_pause_stops_every_process_and_resume_lets_them_go_on(daemon: Daemon) -> None:
    id = daemon.run(
        "/bin/sh", "-c", "(while :; do echo child; sleep 0.01; done) & while :; do echo main; sleep 0.01; done"
    )
    until_logged(daemon, id, b"child")
    assert daemon.call.Pause(pb.PauseRequest(id=id)).agent.state == pb.STATE_PAUSED
    length = len(daemon.logs(id))
    time.sleep(0.3)
    assert len(daemon.logs(id)) == length
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "paused by request"):
        daemon.exec(id, "/bin/true")
    assert daemon.call.Resume(pb.ResumeRequest(id=id)).agent.state == pb.STATE_RUNNING
    time.sleep(0.3)
    assert len(daemon.logs(id)) > length
    daemon.call.Pause(pb.PauseRequest(id=id))
    assert daemon.call.Stop(pb.StopRequest(id=id, grace_ms=2000)).agent.last_exit.reason == pb.EXIT_REASON_STOPPED


def test_exec(daemon: Daemon) -> None:
    id = daemon.run(*SLEEP, env={"FROM": "agent"})
    assert daemon.exec(id, "/bin/sh", "-c", "cat; echo $FROM $MORE >&2; exit 3", stdin=b"in", env={"MORE": "exec"}) == (
        3,
        b"in",
        b"agent exec\n",
    )
    assert daemon.exec(id, "/bin/sh", "-c", "kill -9 $$")[0] == -9
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "/bin/nothing"):
        daemon.exec(id, "/bin/nothing")
    big = b"x" * 3_000_000
    assert daemon.exec(id, "/bin/cat", stdin=big)[1] == big


def test_exec_has_a_timeout_and_ends_with_its_caller(daemon: Daemon) -> None:
    id = daemon.run()
    began = time.monotonic()
    replies = list(
        daemon.call.Exec(
            iter([pb.ExecRequest(begin=pb.ExecRequest.Begin(id=id, argv=["/bin/sleep", "50"], timeout_ms=200))])
        )
    )
    assert replies[-1].exit.reason == pb.EXIT_REASON_LIMIT
    assert "200 ms" in replies[-1].exit.detail
    assert time.monotonic() - began < 5
    call = daemon.call.Exec(iter([pb.ExecRequest(begin=pb.ExecRequest.Begin(id=id, argv=["/bin/sleep", "77"]))]))
    assert next(call).started > 0
    call.cancel()
    deadline = time.monotonic() + 5
    while daemon.stats(id).pids > 2:
        assert time.monotonic() < deadline, "programs of an exec outlive it"
        time.sleep(0.02)


def test_attach(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "while read line; do echo got $line; [ $line = end ] && exit 4; done", stdin=True)
    ready = threading.Event()

    def messages() -> Any:
        yield pb.AttachRequest(begin=pb.AttachRequest.Begin(id=id))
        ready.wait(5)
        yield pb.AttachRequest(stdin=b"one\n")
        yield pb.AttachRequest(stdin=b"end\n")
        time.sleep(5)

    out, exit = b"", None
    call = daemon.call.Attach(messages(), timeout=20)
    ready.set()
    for reply in call:
        out += reply.stdout
        if reply.HasField("exit"):
            exit = reply.exit
    assert out == b"got one\ngot end\n"
    assert exit is not None
    assert exit.code == 4


def test_update_while_it_runs(daemon: Daemon) -> None:
    id = daemon.run(
        "/usr/bin/python3",
        "-c",
        "x = bytearray(60 << 20); print('up', flush=True); import time; time.sleep(1000)",
        policy='version = 1\n[limits]\nmemory = "256 MiB"\n',
    )
    until_logged(daemon, id, b"up")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id, "in use now"):
        daemon.call.Update(pb.UpdateRequest(id=id, limits=pb.Limits(memory_bytes=16 << 20)))
    assert daemon.agent(id).limits.memory_bytes == 0
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "limits.memory_bytes", "above the policy's"):
        daemon.call.Update(pb.UpdateRequest(id=id, limits=pb.Limits(memory_bytes=1 << 40)))
    limits = pb.Limits(memory_bytes=128 << 20, pids=20, cpu_milli=500)
    assert daemon.call.Update(pb.UpdateRequest(id=id, limits=limits)).agent.limits == limits
    code, _, err = daemon.exec(id, "/usr/bin/python3", "-c", "bytearray(200 << 20)")
    assert code != 0, err
    daemon.kill()
    daemon.start()
    assert daemon.agent(id).limits == limits


def test_wait(daemon: Daemon) -> None:
    id = daemon.create("/bin/sleep", "0.3")
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED, id, "created"):
        daemon.wait(id, timeout=0.1)
    got: list[Any] = []
    waiter = threading.Thread(target=lambda: got.append(daemon.wait(id)))
    waiter.start()
    daemon.start_agent(id)
    assert daemon.wait(id, pb.STATE_RUNNING).state == pb.STATE_RUNNING
    waiter.join(10)
    assert got[0].state == pb.STATE_EXITED


def test_list_by_labels_and_ids(daemon: Daemon) -> None:
    for i in range(4):
        daemon.create(id=f"a{i}", labels={"odd": str(i % 2), "all": "x"})
    reply = daemon.call.List(pb.ListRequest(labels={"odd": "1", "all": "x"}))
    assert [a.id for a in reply.agents] == ["a1", "a3"]
    assert reply.last_event == 4
    full = daemon.call.List(pb.ListRequest(ids=["a2"], full=True)).agents[0]
    assert list(full.spec.argv) == list(SLEEP)
    with refused(grpc.StatusCode.NOT_FOUND, "nobody"):
        daemon.call.List(pb.ListRequest(ids=["nobody"]))


def test_logs_follow_and_go_on_from_a_position(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "for i in 1 2 3 4 5; do echo line $i; sleep 0.05; done")
    chunks = list(daemon.call.Logs(pb.LogsRequest(id=id, follow=True), timeout=20))
    assert b"".join(c.data for c in chunks) == b"".join(b"line %d\n" % i for i in range(1, 6))
    middle = chunks[1].next
    rest = b"".join(c.data for c in chunks[2:])
    assert daemon.logs(id, **{"from": middle}) == rest
    assert daemon.logs(id, tail_bytes=1).endswith(b"line 5\n")


def test_logs_are_bounded_and_rotated(daemon: Daemon) -> None:
    id = daemon.run(
        "/bin/sh",
        "-c",
        "i=0; while [ $i -lt 40 ]; do head -c 65536 /dev/zero | tr '\\0' x; i=$((i+1)); done; echo last",
        log=pb.LogOptions(max_bytes=1 << 20, max_bytes_per_s=1 << 30),
    )
    daemon.wait(id)
    logged = daemon.logs(id)
    assert logged.endswith(b"last\n")
    assert b"bytes forgotten" in logged
    assert 600_000 < len(logged) <= 1 << 20
    kept = sum(f.stat().st_size for f in (daemon.root / "agents" / id).glob("log.*"))
    assert kept <= 1 << 20
    assert daemon.stats(id).log_bytes == 40 * 65536 + 5


def test_events_follow(daemon: Daemon) -> None:
    call = daemon.call.Events(pb.EventsRequest(follow=True), timeout=30)
    id = daemon.create("/bin/true")
    daemon.start_agent(id, request_id="r-1")
    seen = []
    for event in call:
        seen.append((event.kind, event.request_id))
        if event.kind == "exited":
            break
    assert seen == [("created", ""), ("starting", "r-1"), ("running", "r-1"), ("exited", "")]
    call.cancel()
    other = daemon.create("/bin/true")
    assert [e.agent for e in daemon.events(id=other)] == [other]
    with refused(grpc.StatusCode.OUT_OF_RANGE, "12345", "newest is"):
        daemon.events(after=12345)


def test_who_may_call(daemon: Daemon) -> None:
    import subprocess
    import sys

    script = (
        "import os, grpc, sys\n"
        "from tests.agentrt.runtime.daemon import pb, pb_grpc\n"
        "def ask():\n"
        "    c = grpc.insecure_channel(sys.argv[1], options=[('grpc.default_authority', 'localhost'),\n"
        "        ('grpc.use_local_subchannel_pool', 1)])\n"
        "    pb_grpc.RuntimeServiceStub(c).Info(pb.InfoRequest(), timeout=5)\n"
        "ask()\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    ask()\n"
        "except grpc.RpcError as e:\n    print(e.code().name, e.details())\n"
    )
    daemon.root.parent.chmod(0o755)
    daemon.root.chmod(0o711)
    run = subprocess.run([sys.executable, "-c", script, f"unix:{daemon.socket}"], capture_output=True, text=True)
    assert run.stdout.startswith("PERMISSION_DENIED user 65534 is not served"), run


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"id": "../x"}, "INVALID_ARGUMENT", ["id", "../x"]),
        ({"policy": "version = 1\nlimitz = 3\n"}, "INVALID_ARGUMENT", ["policy", "limitz"]),
        ({"policy": 'version = 1\n[files]\nread = ["/no/such/path"]\n'}, "FAILED_PRECONDITION", ["/no/such/path"]),
        ({"policy": 'version = 1\nlevel = "L1"\n'}, "INVALID_ARGUMENT", ["L1"]),
        ({"policy": "{"}, "INVALID_ARGUMENT", ["policy"]),
        ({"limits": pb.Limits(pids=1 << 30)}, "INVALID_ARGUMENT", ["limits.pids"]),
        ({"limits": pb.Limits(memory_bytes=5)}, "INVALID_ARGUMENT", ["limits.memory_bytes"]),
        ({"cwd": "here"}, "INVALID_ARGUMENT", ["cwd", "here"]),
        ({"env": {"A=B": "c"}}, "INVALID_ARGUMENT", ["env", "A=B"]),
        ({"restart": pb.RestartPolicy(first_delay_ms=9, max_delay_ms=3)}, "INVALID_ARGUMENT", ["restart"]),
        ({"health": pb.HealthChecks(startup=pb.HealthCheck())}, "INVALID_ARGUMENT", ["health.startup"]),
    ],
)
def test_bad_input_is_one_sentence_and_makes_nothing(
    daemon: Daemon, change: dict[str, Any], code: str, words: list[str]
) -> None:
    with refused(getattr(grpc.StatusCode, code), *words):
        daemon.create("/bin/true", **change)
    assert not list((daemon.root / "agents").iterdir())
    assert not daemon.call.List(pb.ListRequest()).agents
    assert daemon.call.Info(pb.InfoRequest()).last_event == 0


def test_a_start_that_fails_says_why_and_leaves_nothing_behind(daemon: Daemon) -> None:
    id = daemon.create("/no/such/program")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id, "/no/such/program"):
        daemon.start_agent(id)
    agent = daemon.agent(id)
    assert (agent.state, agent.last_exit.reason, agent.pid) == (pb.STATE_EXITED, pb.EXIT_REASON_START_FAILED, 0)
    id = daemon.create("/bin/true", cwd="/no/such/place")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "/no/such/place"):
        daemon.start_agent(id)


def test_moves_that_the_table_forbids(daemon: Daemon) -> None:
    id = daemon.run()
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id, "running already"):
        daemon.start_agent(id)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, id, "running", "force"):
        daemon.call.Delete(pb.DeleteRequest(id=id))
    with refused(grpc.StatusCode.ALREADY_EXISTS, id):
        daemon.create(id=id)
    created = daemon.create()
    for call, request in [
        (daemon.call.Pause, pb.PauseRequest),
        (daemon.call.Resume, pb.ResumeRequest),
    ]:
        with refused(grpc.StatusCode.FAILED_PRECONDITION, created, "created"):
            call(request(id=created))
    with refused(grpc.StatusCode.NOT_FOUND, "nobody"):
        daemon.start_agent("nobody")


def test_every_verb_is_idempotent_by_request_id(daemon: Daemon) -> None:
    """Each verb twice with one id, and once more after a kill -9: one effect, the same answer."""
    keys = {verb: new_id() for verb in ["create", "start", "pause", "resume", "update", "exec", "stop", "delete"]}
    spec = pb.AgentSpec(argv=["/bin/sh", "-c", "echo run; exec sleep 1000"])
    limits = pb.Limits(pids=50)
    begin = pb.ExecRequest.Begin(request_id=keys["exec"], id="x", argv=["/bin/sh", "-c", "echo >> execs; exit 5"])
    verbs = [
        lambda: daemon.call.Create(pb.CreateRequest(request_id=keys["create"], id="x", spec=spec)),
        lambda: daemon.call.Start(pb.StartRequest(request_id=keys["start"], id="x")),
        lambda: daemon.call.Pause(pb.PauseRequest(request_id=keys["pause"], id="x")),
        lambda: daemon.call.Resume(pb.ResumeRequest(request_id=keys["resume"], id="x")),
        lambda: daemon.call.Update(pb.UpdateRequest(request_id=keys["update"], id="x", limits=limits)),
        lambda: list(daemon.call.Exec(iter([pb.ExecRequest(begin=begin)]))),
        lambda: daemon.call.Stop(pb.StopRequest(request_id=keys["stop"], id="x")),
        lambda: daemon.call.Delete(pb.DeleteRequest(request_id=keys["delete"], id="x")),
    ]

    def changes() -> list[str]:
        return [e.kind for e in daemon.events() if e.kind != "adopted"]

    for i, verb in enumerate(verbs):
        verb()
        before = changes()
        verb()
        assert changes() == before, i
        daemon.kill()
        daemon.start()
        again = verb()
        assert changes() == before, i
        if i == 1:
            until_logged(daemon, "x", b"run")
        if i == 5:
            assert again[-1].exit.code == 5
            assert daemon.exec("x", "/bin/sh", "-c", "wc -l < execs")[1].strip() == b"1"
    with refused(grpc.StatusCode.ALREADY_EXISTS, keys["start"], "another request"):
        daemon.call.Stop(pb.StopRequest(request_id=keys["start"], id="x"))


def test_many_callers_with_one_request_id_have_one_effect(daemon: Daemon) -> None:
    key, answers = new_id(), []

    def ask() -> None:
        reply = daemon.call.Create(pb.CreateRequest(request_id=key, spec=pb.AgentSpec(argv=SLEEP)))
        answers.append(reply.agent.id)

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(answers) == 32
    assert len(set(answers)) == 1
    assert len(daemon.call.List(pb.ListRequest()).agents) == 1


TALKS = """
import os, signal, sys
size = lambda: "%dx%d" % os.get_terminal_size()
# (os.write: a handler that prints amid a print of the program raises "reentrant call".)
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted\\n"))
signal.signal(signal.SIGWINCH, lambda *_: os.write(1, b"%s\\n" % size().encode()))
print(os.ttyname(0), size(), flush=True)
print("up", flush=True)
for line in sys.stdin:
    print("<%s>" % line.strip(), flush=True)
"""


def test_a_terminal(daemon: Daemon) -> None:
    """A program with a terminal: of the agent's own /dev/pts, with a window, signals by keys, and an end of input."""
    id = daemon.run()
    inputs: Any = queue.SimpleQueue()

    def messages() -> Any:
        while (message := inputs.get()) is not None:
            yield message

    begin = pb.ExecRequest.Begin(id=id, argv=["/usr/bin/python3", "-c", TALKS], tty=True, rows=30, cols=90)
    inputs.put(pb.ExecRequest(begin=begin))
    call = daemon.call.Exec(messages(), timeout=30)
    said = b""

    def read_until(word: bytes) -> None:
        nonlocal said
        while word not in said:
            reply = next(call)
            assert not reply.stderr, "a terminal has one output"
            said += reply.stdout

    read_until(b"up\r\n")
    assert said.startswith(b"/dev/pts/0 90x30\r\n")
    inputs.put(pb.ExecRequest(window=pb.ExecRequest.WindowSize(rows=40, cols=100)))
    read_until(b"100x40")
    inputs.put(pb.ExecRequest(stdin=b"one\n"))
    read_until(b"<one>")
    inputs.put(pb.ExecRequest(stdin=b"\x03"))
    read_until(b"interrupted")
    inputs.put(pb.ExecRequest(stdin_closed=True))
    exits = [reply.exit for reply in call if reply.HasField("exit")]
    assert [e.reason for e in exits] == [pb.EXIT_REASON_EXITED]
    inputs.put(None)
    # Nothing of it is left, and the next one has the same name.
    assert daemon.exec(id, "/usr/bin/tty", tty=True)[1] == b"/dev/pts/0\r\n"


SAYS_A_WORD = """
import socket
COOKIE = 71
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as talker:
    print(int.from_bytes(talker.getsockopt(socket.SOL_SOCKET, COOKIE, 8), "little"))
    talker.bind(("127.0.0.1", 0))
    talker.sendto(b"a word", talker.getsockname())
"""


def test_a_network_is_lent_again_only_where_nobody_has_used_it(daemon: Daemon) -> None:
    """Networks are made while the spawner is idle, and agents that have used theirs take it with them."""

    def said_by(*argv: str) -> str:
        id = daemon.run(*argv)
        daemon.wait(id)
        return daemon.logs(id).decode().strip()

    quiet = ["/bin/readlink", "/proc/self/ns/net"]
    deadline = time.monotonic() + 20
    while said_by(*quiet) != said_by(*quiet):
        assert time.monotonic() < deadline, "no network was lent again, and nobody has used any"
    cookies = [said_by("/usr/bin/python3", "-c", SAYS_A_WORD) for _ in range(20)]
    assert len(set(cookies)) == 20, "the kernel gives each network another"


SERVES = """
import http.server
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from inside " + self.path.encode())
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Hello).serve_forever()
"""


def test_a_port_that_an_agent_serves(daemon: Daemon) -> None:
    id = daemon.run("/usr/bin/python3", "-c", SERVES)

    def asked(path: bytes, port: int = 8000) -> bytes:
        def messages() -> Any:
            yield pb.ForwardRequest(begin=pb.ForwardRequest.Begin(id=id, port=port))
            yield pb.ForwardRequest(data=b"GET " + path + b" HTTP/1.0\r\n\r\n")
            yield pb.ForwardRequest(closed=True)

        return b"".join(reply.data for reply in daemon.call.Forward(messages(), timeout=20))

    deadline = time.monotonic() + 20
    while True:
        try:
            assert asked(b"/one").endswith(b"from inside /one")
            break
        except grpc.RpcError:
            assert time.monotonic() < deadline
    assert asked(b"/two").endswith(b"from inside /two")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "port 81"):
        asked(b"/", 81)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "port"):
        asked(b"/", 70_000)
