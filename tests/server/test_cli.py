"""The command line as people use it, and as they misuse it: against a real server, and against one that is not well."""

import base64
import http.server
import json
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpve.cli.output import rows
from gpve.client import ApiError, Client
from gpve.client.calls import MOST_STDIN, stdin
from gpve.client.contexts import Context, Contexts, keep
from tests.agentrt.runtime.daemon import programs
from tests.server.cluster import GPVE, Cluster, done, free_ports, one_node


@pytest.fixture(scope="module")
def here() -> Iterator[Cluster]:
    """One server and one node for all of these tests."""
    with one_node(64_000, 65_536) as made:
        yield made


@pytest.fixture(autouse=True)
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPVE_CONFIG", str(tmp_path / "contexts.yaml"))


@pytest.fixture
def context(here: Cluster) -> Context:
    server = here.servers["s"]
    return Context((server.url,), here.token(), (server.directory / "ca.pem").read_text())


@pytest.fixture
def run(context: Context, gpve) -> Callable[..., Any]:
    """A command of this cluster."""
    keep(Contexts("here", {"here": context}))
    return gpve


@pytest.fixture
def client(here: Cluster) -> Client:
    return here.client()


def gone(client: Client, *guests: int) -> None:
    for guest in guests:
        done(client, client.act("vm", "stop", guest))
        done(client, client.act("vm", "delete", guest))


# A server that is not well.


@pytest.fixture
def unwell() -> Iterator[tuple[str, list[int]]]:
    """A server that answers each request with the next of these statuses, and with the last for ever."""
    statuses: list[int] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
            body = {"type": "urn:gpve:problem:store-away", "detail": "the database does not answer"}
            text = json.dumps(body if status != 200 else {"nodes": []}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", statuses
        server.shutdown()
        thread.join()


def test_a_call_says_what_it_waits_for(unwell: tuple[str, list[int]], gpve) -> None:
    url, statuses = unwell
    statuses += [503, 503, 200]
    keep(Contexts("x", {"x": Context((url,), "t")}))
    said = gpve("node", "list")
    assert (said.code, said.out) == (0, "no nodes; gpve node token makes a token to join\n")
    assert said.err == "gpve: the database does not answer; trying again\n", "once"


def test_a_call_is_tried_for_a_time(unwell: tuple[str, list[int]]) -> None:
    url, statuses = unwell
    statuses += [503]
    told: list[ApiError] = []
    with Client([url], "t", patience_s=0.5, waiting=told.append) as client, pytest.raises(ApiError) as error:
        client.nodes()
    assert (error.value.status, str(error.value)) == (503, "the database does not answer")
    assert told
    with Client([url], "t", patience_s=0.0, waiting=told.clear) as client, pytest.raises(ApiError):
        client.nodes()
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    with Client([dead], "t", patience_s=0.2) as client, pytest.raises(ApiError, match="no server answers"):
        client.nodes()
    statuses[:] = [200]
    with Client([dead, url], "t", patience_s=5.0) as client:
        assert client.nodes() == []


def test_a_server_that_says_nothing_does_not_take_all_of_the_time(unwell: tuple[str, list[int]]) -> None:
    url, statuses = unwell
    statuses += [200]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        frozen = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client([frozen, url], "t", patience_s=4.0) as client:
            assert client.nodes() == []


# Rubbish.

RUBBISH = [
    ("vm", "create", "x", "--cpu", "inf"),
    ("vm", "create", "x", "--cpu", "nan"),
    ("vm", "create", "x", "--cpu", "1e308"),
    ("vm", "create", "x", "--memory", "\u00b2G"),
    ("vm", "create", "x", "--memory", "9" * 5000),
    ("vm", "create", "x\udcff"),
    ("vm", "create", "x", "--disk", ":"),
    ("vm", "create", "-f", "/nosuch/x"),
    ("vm", "create", "-f", "/etc"),
    ("vm", "create", "-f", "FILE"),
    ("vm", "resize", "x", "--cpu", "nan"),
    ("vm", "show", "\u00b2"),
    ("agent", "create", "x", "--liveness", '"unclosed', "--", "/bin/true"),
    ("agent", "create", "x", "--env", "A", "--", "/bin/true"),
    ("agent", "create", "x", "--policy", "/etc", "--", "/bin/true"),
    ("agent", "create", "x", "--env", "A=B"),
    ("node", "token", "--hours", "inf"),
    ("task", "watch", "1", "--every", "nan"),
    ("task", "list", "--database", "sqlite:///FILE"),
    ("task", "list", "--database", "rubbish"),
    ("audit", "--sockets", "/tmp"),
    ("dump", "/nosuch/x"),
    ("dump", "/etc"),
    ("dump", "FILE"),
    ("redecide", "/etc"),
    ("context", "add", "x", "--server", "nonsense", "--token-file", "/etc/hostname"),
    ("up", "--dir", "/proc/x"),
    ("up", "--dir", "FILE"),
]
FILES = [b"\xff\xfe", b"{", b"- a", b"at: 2020-01-01", b"cpu_milli: .inf", b"a: &a [*a]", b"[" * 5000, b"a: \x00"]


@pytest.mark.parametrize("words", RUBBISH, ids=lambda words: " ".join(words)[:40].encode("ascii", "replace").decode())
def test_rubbish_is_refused_in_a_sentence(run, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "FILE").write_bytes(FILES[0])
    said = run(*(word.replace("FILE", str(tmp_path / "FILE")) for word in words))
    assert said.code == 2, said
    if not said.err.startswith("Usage: "):
        assert said.err.startswith("gpve: "), said.err
        assert said.err.count("\n") == 1, said.err
    assert (tmp_path / "FILE").read_bytes() == FILES[0]


@pytest.mark.parametrize("content", FILES)
def test_a_file_that_is_no_specification(run, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "spec").write_bytes(content)
    said = run("vm", "create", "-f", str(tmp_path / "spec"))
    assert said.code == 2
    assert said.err.startswith("gpve: ")
    assert said.err.count("\n") == 1


def test_a_damaged_file_of_contexts(gpve, tmp_path: Path, monkeypatch) -> None:
    for content in (b"\xff", b"[", b"contexts: 5", b"contexts: {a: 1}", b"contexts: {a: {servers: [], token: t}}"):
        (tmp_path / "contexts.yaml").write_bytes(content)
        said = gpve("vm", "list", "--context", "a")
        assert (said.code, said.err.count("\n")) == (2, 1), said
    monkeypatch.setenv("GPVE_CONFIG", str(tmp_path))
    assert gpve("vm", "list").code == 2


# Guests.


def test_options_win_over_a_file(run, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("name: filed\ncpu_milli: 100\nmemory_mib: 64\ndisks: [{size_gib: 2}]\nnode: nowhere\n")
    said = run("vm", "create", "--cpu", "3", "--node", "a", "-f", str(file), "--wait", "-o", "json")
    assert said.code == 0, said
    guest = client.get("vm", "filed")
    assert (guest.spec["cpu_milli"], guest.spec["memory_mib"], guest.node) == (3000, 64, "a")
    assert client.task(json.loads(said.out)["id"]).body["disks"] == [{"pool": "local", "size_gib": 2}]
    gone(client, guest.id)
    file.write_text(
        "name: agent\ncpu_milli: 100\nmemory_mib: 64\nautostart: false\n" + "program: {argv: [a], env: {A: b}}"
    )
    said = run("agent", "create", "--env", "C=d", "--restart", "never", "-f", str(file), "--wait", "-o", "json")
    program = client.task(json.loads(said.out)["id"]).body["program"]
    assert (program["argv"], program["env"], program["restart"]["when"]) == (["a"], {"A": "b", "C": "d"}, "never")
    assert run("agent", "delete", "agent", "--wait").code == 0


def test_a_name_in_two_projects(run, client: Client) -> None:
    for project in ("one", "two"):
        done(client, client.create("vm", {"name": "same", "cpu_milli": 100, "memory_mib": 64}, project=project))
    first, second = (guest.id for guest in client.list("vm", name="same"))
    said = run("vm", "show", "same")
    assert said.code == 2
    assert f"vms {first} (project one), {second} (project two) have the name 'same'" in said.err
    assert json.loads(run("vm", "show", "same", "--project", "two", "-o", "json").out)["id"] == second
    assert run("vm", "restart", "same", "--project", "one", "--wait").code == 0
    assert "is of project 'one', not of 'two'" in run("vm", "show", str(first), "--project", "two").err
    assert run("vm", "show", "same", "--project", "three").code == 1
    assert [line for line in run("vm", "list", "--project", "two").out.splitlines() if "same" in line]
    assert run("vm", "list").out.count("same") == 2
    gone(client, first, second)


def test_a_guest_is_shown_with_all_that_is_known(run, client: Client) -> None:
    said = run("vm", "create", "shown", "--disk", "3G", "--node", "a", "--wait")
    assert said.err.splitlines()[-1].endswith("done 100 %"), "without a terminal a line for each change"
    assert len(said.err.splitlines()) >= 2
    out = run("vm", "show", "shown").out
    for words in ("starts on  a", "pool=local size_gib=3", "ago) by first", "vm_create, done", "memory     1G"):
        assert words in out
    assert "{" not in out
    assert not run("vm", "list").out.startswith("\n")
    said = run("vm", "resize", "shown", "--cpu", "2.5", "--memory", "2G", "--wait")
    assert said.code == 0, said
    guest = client.get("vm", "shown")
    assert (guest.spec["cpu_milli"], guest.spec["memory_mib"]) == (2500, 2048)
    gone(client, guest.id)
    assert run("vm", "create", "", "--wait").code == 2


def test_an_agent_is_shown_with_what_its_node_says(run, client: Client) -> None:
    done(client, client.create("agent", {"name": "told", "cpu_milli": 100, "memory_mib": 64}))
    out = run("agent", "show", "told").out
    assert "now state" in out
    assert "{" not in out
    assert run("agent", "stop", "told", "--wait").code == 0
    assert run("agent", "delete", "told", "--wait").code == 0


def test_help_has_an_example_and_no_names_of_fields(gpve) -> None:
    import typer.main

    from gpve.cli.main import app

    def tell(command: Any, path: str) -> None:
        for name, child in (getattr(command, "commands", None) or {}).items():
            tell(child, f"{path} {name}")
        if not getattr(command, "commands", None):
            assert "Example: gpve" in (command.help or ""), path
        for parameter in command.params:
            assert "default: as it is" not in (getattr(parameter, "help", "") or ""), path

    tell(typer.main.get_command(app), "gpve")


# One way of printing.


def test_each_command_prints_for_machines(run, client: Client, context: Context) -> None:
    where = ("--context", "good")
    task = client.create("vm", {"name": "listed", "cpu_milli": 100, "memory_mib": 64})
    done(client, task)
    command = _with_good(run, context)
    number = str(task.id)
    assert json.loads(command("task", "list", "-o", "json", *where).out)[0]["id"] == task.id
    assert command("task", "list", "--json", *where).out == command("task", "list", "-o", "json", *where).out
    header = command("task", "list", *where).out.splitlines()[1]
    assert "age" in header
    assert "by" in header
    assert json.loads(command("task", "show", number, "-o", "json", *where).out)["flow"] == "vm_create"
    lines = command("task", "watch", number, "-o", "json", *where).out.splitlines()
    assert json.loads(lines[-1])["kind"] == "closed"
    assert json.loads(command("audit", "-o", "json", *where).out) == []
    assert json.loads(command("explain", "listed", "-o", "json", *where).out)["nodes"] == {"fits": 1}
    assert "status: done" in command("task", "list", "-o", "yaml", *where).out
    token = json.loads(command("token", "create", "ci", "--days", "30", "-o", "json", *where).out)["token"]
    assert token.startswith("gpve_")
    assert json.loads(command("node", "token", "-o", "json", *where).out)["token"]
    out = command("token", "list", *where).out
    assert "any node" in out
    assert "in 29d" in out
    assert command("quota", "set", "none", "--guests", "0", *where).code == 0
    out = command("quota", "show", "none", *where).out
    assert "guests" in out
    assert [line.split("\u2502")[3].strip() for line in out.splitlines() if "\u2502 guests" in line] == ["0"]
    assert json.loads(command("context", "use", "good", "-o", "json").out) == {"current": "good"}
    assert json.loads(command("context", "remove", "good", "-o", "json").out) == {"current": "broken"}
    assert json.loads(command("context", "remove", "broken", "-o", "json").out) == {"current": None}
    gone(client, client.get("vm", "listed").id)


def _with_good(run, context: Context):
    """Run a command; the current context is one whose server does not answer."""

    def command(*words: str) -> Any:
        keep(Contexts("broken", {"broken": Context(("https://127.0.0.1:1",), "t"), "good": context}))
        said = run(*words)
        assert said.code == 0, said
        return said

    return command


def test_a_dump_is_its_owners_alone_and_known_to_be_whole(run, client: Client, tmp_path: Path) -> None:
    done(client, client.create("vm", {"name": "dumped", "cpu_milli": 100, "memory_mib": 64}))
    file = tmp_path / "cluster.jsonl"
    file.touch(0o644)
    assert run("dump", str(file)).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = file.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1]) == {"rows": len(lines) - 2}
    assert run("redecide", str(file)).code == 0
    for cut in (lines[:-1], lines[:2], lines[:1], [*lines[:2], lines[-1]]):
        file.write_text("".join(cut))
        said = run("redecide", str(file))
        assert said.code == 2
        assert "is not whole" in said.err
    assert json.loads(run("dump", "-").out.splitlines()[-1])["rows"] > 0
    assert json.loads(run("dump", str(file), "-o", "json").out)["file"] == str(file)
    gone(client, client.get("vm", "dumped").id)


def test_changes_are_watched(run, client: Client) -> None:
    revision = client.status()["revision"]
    done(client, client.create("vm", {"name": "seen", "cpu_milli": 100, "memory_mib": 64}))
    command = [*GPVE, "watch", "--table", "guest", "--since", str(revision), "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        process.terminate()
    assert (told["table"], told["row"]["name"]) == ("guest", "seen")
    assert run("watch", "--table", "nonsense").code == 2
    gone(client, client.get("vm", "seen").id)


# Programs inside agents.


def test_exec_tells_its_own_failures_from_the_programs(run, monkeypatch) -> None:
    assert run("agent", "exec", "nobody", "--", "/bin/true").code == 125
    assert run("agent", "exec", "nobody").code == 125, "no program is said"
    assert run("agent", "exec", "x", "--context", "none", "--", "/bin/true").code == 125
    monkeypatch.setattr("sys.stdin", open("/dev/zero"))  # noqa: PTH123, SIM115
    said = run("agent", "exec", "-i", "nobody", "--", "/bin/cat")
    assert said.code == 125
    assert "262,144 bytes are the most" in said.err


def test_what_a_program_reads_is_sent_as_bytes() -> None:
    given = bytes(range(256))
    assert base64.b64decode(stdin(given)["stdin_base64"]) == given
    assert stdin("é") == {"stdin_base64": base64.b64encode("é".encode()).decode()}
    assert stdin(b"") == {}
    with pytest.raises(ApiError, match="too many"):
        stdin(bytes(MOST_STDIN + 1))


@pytest.fixture
def agent(cluster: Cluster) -> Iterator[Client]:
    """A cluster with an agent that runs for real."""
    try:
        programs()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    cluster.server("s")
    cluster.node("a", runtime=True)
    client = cluster.client()
    program = {"argv": ["/bin/sh", "-c", "while :; do sleep 0.1; done"]}
    done(client, client.create("agent", {"name": "real", "cpu_milli": 500, "memory_mib": 64, "program": program}))
    yield client
    number = client.get("agent", "real").id
    done(client, client.act("agent", "stop", number))
    done(client, client.act("agent", "delete", number))


def test_exec_says_that_the_time_was_over(agent: Client, command) -> None:
    said = command("agent", "exec", "real", "--timeout", "0.3", "--", "/bin/sleep", "60")
    assert said.code == 137
    assert "it was ended after 0.3 s" in said.err
    said = command("agent", "exec", "real", "--", "/bin/sh", "-c", "exit 3")
    assert (said.code, said.err) == (3, "")
    out = command("agent", "show", "real").out
    assert "now restarts" in out


def test_sentences_in_a_table_are_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sentence = "agent 100 (running): no migration of this kind: stop it (its workspace stays here)"
    rows("", [(sentence,)], ("would stay, and why",), "nothing")
    told = " ".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert told == sentence
