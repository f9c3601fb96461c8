"""What agents reach outside, and what they do not: the proxy attacked from within, judged at the servers."""

import http.server
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.agentrt.runtime.daemon import SLEEP, Daemon, new_id, pb
from tests.agentrt.runtime.test_templates import SCAN

PUBLIC = "93.184.216.34"
NAMES = ["ok.test:80", "ok.test:443", "*.ok.test:80"]
LED_INSIDE = ["private.test:80", "loop.test:80", "meta.test:80", "mixed.test:80", "rebind.test:80"]


def policy(*rules: str) -> str:
    return f"version = 1\n[network]\negress = {json.dumps(rules)}\n"


class World(Daemon):
    """A daemon in a small internet of its own."""

    def reached(self) -> list[str]:
        """What has reached any server so far."""
        log = self.root.with_name("reached")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def world() -> Iterator[World]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip, to make a network")
    folder = Path(tempfile.mkdtemp(prefix="gpve-"))
    d = World(folder / "r")
    script = Path(__file__).with_name("world.py")
    d.before = ["unshare", "-n", "-m", sys.executable, str(script), str(folder / "reached")]
    d.options = ["--egress-authorities", str(folder / "authorities.pem")]
    d.start()
    yield d
    d.leave_nothing()


# Runs inside: sends each request to the proxy, and tells what came back.
ASK = """
import json, socket, sys
answers = []
for parts in json.load(sys.stdin):
    got = b""
    try:
        with socket.create_connection(("127.0.0.1", 3128), timeout=20) as s:
            for part in parts:
                s.sendall(part.encode("latin-1"))
                if len(parts) > 1:
                    got += s.recv(65536)
            s.shutdown(socket.SHUT_WR)
            while data := s.recv(65536):
                got += data
    except OSError as error:
        got += b"|" + type(error).__name__.encode()
    answers.append(got.decode("latin-1"))
print(json.dumps(answers))
"""


def ask(daemon: Daemon, id: str, *requests: str | list[str]) -> list[str]:
    """Each request is one text, or several that are sent one after another, each after an answer to the one before."""
    texts = [[r] if isinstance(r, str) else r for r in requests]
    code, out, err = daemon.exec(id, "/usr/bin/python3", "-c", ASK, stdin=json.dumps(texts).encode())
    assert code == 0, err
    return list(json.loads(out))


def get(address: str, *headers: str) -> str:
    return f"GET {address} HTTP/1.1\r\n" + "".join(f"{h}\r\n" for h in headers) + "\r\n"


def socks(host: bytes, port: int = 80, kind: int = 3) -> list[str]:
    address = bytes([len(host)]) + host if kind == 3 else host
    request = b"\x05\x01\x00" + bytes([kind]) + address + port.to_bytes(2, "big")
    return ["\x05\x01\x00", request.decode("latin-1")]


def test_what_is_allowed_is_reached(world: World) -> None:
    id = world.run(policy=policy(*NAMES))
    plain, upper, beneath, posted, tunnel, by_socks = ask(
        world,
        id,
        get("http://ok.test/a"),
        get("http://OK.Test:80/b", "Host: ok.test"),
        get("http://sub.ok.test/c"),
        "POST http://ok.test/d HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
        ["CONNECT ok.test:443 HTTP/1.1\r\n\r\n", "ping"],
        [*socks(b"ok.test"), get("/e", "Host: ok.test", "Connection: close")],
    )
    for answer in (plain, upper, beneath):
        assert answer.startswith("HTTP/1.0 200"), answer
        assert answer.endswith("hello "), answer
    assert posted.endswith("hello body")
    assert tunnel == "HTTP/1.1 200 Connection established\r\n\r\nping"
    assert by_socks.startswith("\x05\x00\x05\x00")
    assert by_socks.endswith("hello ")
    assert [line.split()[2] for line in world.reached() if "GET" in line] == ["/a", "/b", "/c", "/e"]
    stats = world.stats(id)
    assert stats.egress_connections == 6
    assert stats.egress_bytes_in > 100
    assert not stats.egress_denials
    # What programs find in their environment is enough.
    fetch = "import urllib.request as u; print(u.urlopen('http://ok.test/env').read().decode())"
    assert world.exec(id, "/usr/bin/python3", "-c", fetch)[1] == b"hello \n"


REFUSED = {
    "suffix twin": get("http://evil-ok.test/"),
    "another name": get("http://other.test/"),
    "another port": get("http://ok.test:8080/"),
    "trailing dot": get("http://ok.test./"),
    "IDN": get("http://\xc3\xb6k.test/"),
    "user before the host": get("http://ok.test@other.test/"),
    "Host other than the address": get("http://ok.test/", "Host: other.test"),
    "two Hosts": get("http://ok.test/", "Host: ok.test", "Host: other.test"),
    "NUL in CONNECT": "CONNECT other.test\0.ok.test:443 HTTP/1.1\r\n\r\n",
    "CR LF in CONNECT": "CONNECT ok.test:443\r\nX: y HTTP/1.1\r\n\r\n",
    "CR LF in the address": get("http://ok.test/\r\nHost: other.test"),
    "no port": "CONNECT ok.test HTTP/1.1\r\n\r\n",
    "decimal": get("http://2130706433/"),
    "octal": get("http://0177.0.0.1/"),
    "hexadecimal": get("http://0x7f.1/"),
    "short": get("http://127.1/"),
    "plain loopback": get("http://127.0.0.1/"),
    "mapped": get("http://[::ffff:127.0.0.1]/"),
    "zone": get("http://[fe80::1%25lo]/"),
    "metadata": get("http://169.254.169.254/latest/meta-data"),
    "public address": get(f"http://{PUBLIC}/"),
    "private after resolution": get("http://private.test/"),
    "loopback after resolution": get("http://loop.test/"),
    "metadata after resolution": get("http://meta.test/"),
    "huge header": get("http://ok.test/", "X: " + "a" * 200_000),
    "many headers": get("http://ok.test/", *["X: y"] * 1_000),
    "lengths that disagree": "POST http://ok.test/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "not HTTP": "hello\r\n\r\n",
    "request to the proxy itself": get("/", "Host: ok.test"),
    "NUL in SOCKS": socks(b"other.test\0.ok.test"),
    "CR LF in SOCKS": socks(b"ok.test\r\n"),
    "trailing dot in SOCKS": socks(b"ok.test."),
    "SOCKS by address": socks(bytes([127, 0, 0, 1]), kind=1),
    "SOCKS by mapped address": socks(bytes(10) + b"\xff\xff\x7f\0\0\x01", kind=4),
    "SOCKS with a password": ["\x05\x01\x02"],
    "SOCKS bind": ["\x05\x01\x00", "\x05\x02\x00\x01\x7f\0\0\x01\0\x50"],
}


def test_what_is_not_allowed_is_refused_and_said(world: World) -> None:
    id = world.run(policy=policy(*NAMES, *LED_INSIDE))
    answers = dict(zip(REFUSED, ask(world, id, *REFUSED.values()), strict=True))
    for name, answer in answers.items():
        by_http = answer.startswith(("HTTP/1.1 403", "HTTP/1.1 400"))
        by_socks = answer.startswith(("\x05\x00\x05\x02", "\x05\xff"))
        assert by_http or by_socks, (name, answer)
    assert world.reached() == []
    assert 'network.egress = ["other.test:80"]' in answers["another name"]
    assert "internal" in answers["private after resolution"]
    denied = world.stats(id).egress_denials
    for name in ("evil-ok.test:80", "other.test:80", "private.test:80", "169.254.169.254:80", "(malformed)"):
        assert denied[name] >= 1, (name, denied)
    # Others are served as before.
    assert ask(world, id, get("http://ok.test/"))[0].endswith("hello ")


def test_names_that_lead_elsewhere_the_second_time(world: World) -> None:
    """It is connected to the very address that was looked at; a redirect is a request like any other."""
    id = world.run(policy=policy(*NAMES, *LED_INSIDE))
    answers = ask(world, id, *[get("http://rebind.test/r")] * 8, *[get("http://mixed.test/m")] * 3)
    assert {a.split()[1] for a in answers[:8]} == {"200", "403"}
    assert all(a.endswith("hello ") for a in answers[8:])
    assert not [line for line in world.reached() if line.startswith("127.0.0.1")]
    follow = "import urllib.request as u; u.urlopen('http://ok.test/redirect')"
    code, _, err = world.exec(id, "/usr/bin/python3", "-c", follow, env={"no_proxy": "", "NO_PROXY": ""})
    assert code == 1
    assert b"403" in err, err
    assert not [line for line in world.reached() if "inside" in line]


def hello(name: bytes) -> str:
    """A TLS ClientHello."""
    extension = b"\0\0" + (len(name) + 5).to_bytes(2, "big") + (len(name) + 3).to_bytes(2, "big")
    extension += b"\0" + len(name).to_bytes(2, "big") + name
    body = b"\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0" + len(extension).to_bytes(2, "big") + extension
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return (b"\x16\3\1" + len(message).to_bytes(2, "big") + message).decode("latin-1")


def test_tls_goes_to_the_name_that_was_asked_for(world: World) -> None:
    id = world.run(policy=policy(*NAMES))
    connect = "CONNECT ok.test:443 HTTP/1.1\r\n\r\n"
    own, other, broken = ask(
        world,
        id,
        [connect, hello(b"OK.test")],
        [connect, hello(b"other.test")],
        [connect, "\x16\x03\x01\x00\x02\x09\x09"],
    )
    assert own.endswith(hello(b"OK.test"))
    assert own.startswith("HTTP/1.1 200")
    assert other.startswith("HTTP/1.1 200")
    assert hello(b"other.test") not in other
    assert len([line for line in world.reached() if line.startswith("echo")]) == 1, (world.reached(), broken)
    assert world.stats(id).egress_denials["ok.test as other.test"] == 1


def test_a_second_request_behind_the_first_reaches_nobody(world: World) -> None:
    id = world.run(policy=policy(*NAMES))
    chunked = "POST http://ok.test/c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    smuggled = get("/smuggled", "Host: other.test")
    ask(world, id, get("http://ok.test/a") + smuggled, chunked + smuggled)
    assert not [line for line in world.reached() if "smuggled" in line]


def test_slow_and_greedy_clients_harm_themselves(world: World) -> None:
    greedy = world.run(policy=policy(*NAMES))
    neighbour = world.run(policy=policy(*NAMES))
    hold = """
import socket, time
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(150)]
[s.send(b"GET http://ok.test/ HTTP/1.1\\r\\nX: ") for s in held[:100]]
print("held", flush=True)
time.sleep(100)
"""
    call = world.call.Exec(
        iter([pb.ExecRequest(begin=pb.ExecRequest.Begin(id=greedy, argv=["/usr/bin/python3", "-c", hold]))])
    )
    while b"held" not in next(call).stdout:
        pass
    for _ in range(5):
        began = time.monotonic()
        assert ask(world, neighbour, get("http://ok.test/"))[0].endswith("hello ")
        assert time.monotonic() - began < 8
    call.cancel()
    # Whoever asks for nothing is shown out after ten seconds.
    assert ask(world, greedy, get("http://ok.test/"))[0].endswith("hello ")


def test_no_egress_no_proxy(world: World) -> None:
    id = world.run()
    code, _, err = world.exec(id, "/usr/bin/python3", "-c", ASK, stdin=b'[["x"]]')
    assert code == 0, err
    assert b"proxy" not in world.exec(id, "/usr/bin/env")[1]
    code, out, _ = world.exec(id, "/usr/bin/python3", "-c", ASK, stdin=b'[["x"]]')
    assert json.loads(out) == ["|ConnectionRefusedError"]


SECRETS = """version = 1
[network]
egress = ["ok.test:80", "sub.ok.test:80", "secure.test:8443", "wrong.test:8443"]
[network.secrets]
KEY = ["http://ok.test:80", "https://secure.test:8443", "https://wrong.test:8443"]
"""


def bearer(path: str, word: str) -> str:
    return get(path, f"Authorization: Bearer {word}", "Accept-Encoding: gzip")


def test_a_secret_goes_to_its_origins_alone(world: World) -> None:
    secret = "s3cr3t-" + new_id()
    id = world.run(policy=SECRETS, secrets={"KEY": secret})
    placeholder = world.exec(id, "/usr/bin/printenv", "KEY")[1].decode().strip()
    assert placeholder.startswith("gpve-")
    assert len(placeholder) == len(secret)
    said = ask(
        world,
        id,
        bearer("http://ok.test/own", placeholder),
        bearer("http://secure.test:8443/tls", placeholder),
        bearer("http://sub.ok.test/other-host", placeholder),
        bearer("http://ok.test/" + placeholder, "path"),
        ["CONNECT ok.test:80 HTTP/1.1\r\n\r\n", get("/tunnel", "Host: ok.test", f"Authorization: {placeholder}")],
        [*socks(b"ok.test"), get("/socks", "Host: ok.test", f"Authorization: {placeholder}", "Connection: close")],
        bearer("http://wrong.test:8443/not-its-name", placeholder),
        f"TRACE http://ok.test/trace HTTP/1.1\r\nX: {placeholder}\r\n\r\n",
        bearer("http://ok.test/echo", placeholder),
        bearer("http://secure.test:8443/echo", placeholder),
    )
    reached = {line.split()[2]: line.split()[3:] for line in world.reached()}
    assert reached["/own"] == ["ok.test", "Bearer", secret]
    assert reached["/tls"] == ["secure.test:8443", "Bearer", secret]
    # Everyone else gets what the agent has, which is worth nothing.
    assert reached["/other-host"] == ["sub.ok.test", "Bearer", placeholder]
    assert reached["/" + placeholder] == ["ok.test", "Bearer", "path"]
    assert reached["/tunnel"] == reached["/socks"] == ["ok.test", placeholder]
    assert said[6].startswith("HTTP/1.1 502")
    assert "TLS" in said[6]
    assert said[7].startswith("HTTP/1.1 502")
    assert not {"/not-its-name", "/trace"} & set(reached)
    # What a server says back is a placeholder again.
    for answer in said[8:]:
        assert f"X-Echo: Bearer {placeholder}" in answer
        assert answer.endswith(f"hello Bearer {placeholder}")
    follow = """
import os, urllib.request as u
u.urlopen(u.Request("http://ok.test/redirect", headers={"Authorization": os.environ["KEY"]}))
"""
    code, _, err = world.exec(id, "/usr/bin/python3", "-c", follow, env={"no_proxy": "", "NO_PROXY": ""})
    assert (code, b"403" in err) == (1, True), err
    assert not [line for line in world.reached() if "inside" in line]
    # Neither what the agent was told, nor what the daemon tells or writes down, has the secret.
    full = world.call.List(pb.ListRequest(full=True))
    words = "".join(said) + str(full) + str(world.events()) + str(world.stats(id)) + world.said()
    assert secret not in words
    assert not [file for file in world.root.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    # A daemon that dies does not take it along; a proxy that dies neither.
    world.kill()
    world.start()
    until(lambda: again(world, id, placeholder))
    assert world.reached()[-1].split()[3:] == ["ok.test", "Bearer", secret]


def again(world: World, id: str, placeholder: str) -> bool:
    try:
        return ask(world, id, bearer("http://ok.test/again", placeholder))[0].startswith("HTTP/1.0 200")
    except (AssertionError, grpc.RpcError):
        return False


def memory_of(pid: int) -> bytes:
    """All that a process has in its memory, as far as it can be read."""
    found = b""
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            if "r" in line.split()[1] and "[v" not in line:
                try:
                    memory.seek(low)
                    found += memory.read(high - low)
                except OSError:
                    continue
    return found


@pytest.mark.parametrize("claimed", [False, True])
def test_an_agent_that_scans_all_that_it_has_finds_no_secret(world: World, claimed: bool) -> None:
    left, right = "s3cr3t-" + new_id()[:12], "-" + new_id()[:12]
    use = """
import os, sys, urllib.request as u
assert b"hello" in u.urlopen(u.Request("http://ok.test/use", headers={"Authorization": os.environ["KEY"]})).read()
names = [n for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + n)]
print(len(names), sys.argv[1] in "".join(os.environ.values()), sys.argv[1] in open("/proc/self/environ").read())
"""
    argv = ("-c", use + SCAN + "sys.stdout.flush()\nimport time; time.sleep(1000)", left, right)
    if claimed:
        world.template("t", policy=SECRETS)
        id = world.claim("t", *argv, secrets={"KEY": left + right}).id
    else:
        id = world.run("/usr/bin/python3", *argv, policy=SECRETS, secrets={"KEY": left + right})
    until(lambda: world.logs(id).count(b"\n") == 2)
    assert world.logs(id) == b"3 False False\n0\n"
    assert world.reached()[-1].split()[3:] == ["ok.test", left + right]
    # Its init is a copy of the spawner, which holds the secret, and must not have looked at it.
    for pid in (world.agent(id).pid, *world.spawner_pids()):
        assert (left + right).encode() not in memory_of(pid)


def test_secrets_that_are_lost_or_not_given_are_refused_in_a_sentence(world: World) -> None:
    for secrets, words in [
        ({}, "KEY.*not given"),
        ({"KEY": "short"}, "16 to 4096"),
        ({"KEY": "x" * 20, "OTHER": "y" * 20}, "OTHER.*does not name"),
    ]:
        with pytest.raises(grpc.RpcError, match=words):
            world.create(policy=SECRETS, secrets=secrets)
    with pytest.raises(grpc.RpcError, match="env has a variable"):
        world.create(policy=SECRETS, secrets={"KEY": "x" * 20}, env={"KEY": "y"})
    created = world.create(policy=SECRETS, secrets={"KEY": "x" * 20})
    id = world.run(policy=SECRETS, secrets={"KEY": "x" * 20})
    placeholder = world.exec(id, "/usr/bin/printenv", "KEY")[1].decode().strip()
    world.kill()
    for pid in world.spawner_pids():
        os.kill(pid, signal.SIGKILL)
    world.start()
    until(lambda: "KEY was lost" in ask(world, id, bearer("http://ok.test/lost", placeholder))[0])
    assert not [line for line in world.reached() if "/lost" in line]
    with pytest.raises(grpc.RpcError, match="create it again"):
        world.start_agent(created)


def test_the_policy_limits_connections_and_bytes(world: World) -> None:
    """In the policy's own words, for each agent: others are not held up."""
    few = policy(*NAMES) + "egress_connections = 2\n"
    slow = policy(*NAMES) + "egress_bytes_per_second = 50_000\n"
    hold = """
import socket, time
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(3)]
for s in held:
    s.sendall(b"CONNECT ok.test:443 HTTP/1.1\\r\\n\\r\\n")
    s.settimeout(2)
answers = []
for s in held:
    try:
        answers.append(s.recv(100)[:12].decode())
    except TimeoutError:
        answers.append("waits")
held[0].close()
held[2].settimeout(20)
print(answers, held[2].recv(100)[:12].decode())
"""
    id = world.run(policy=few)
    code, out, err = world.exec(id, "/usr/bin/python3", "-c", hold)
    assert code == 0, err
    assert out.decode().strip() == "['HTTP/1.1 200', 'HTTP/1.1 200', 'waits'] HTTP/1.1 200"
    fetch = """
import socket, time
s = socket.create_connection(("127.0.0.1", 3128))
s.sendall(b"GET http://ok.test/big HTTP/1.1\\r\\n\\r\\n")
began, early, all = time.monotonic(), 0, 0
while data := s.recv(65536):
    all += len(data)
    early += len(data) if time.monotonic() < began + 2 else 0
print(early, all)
"""
    for rules, most in ((slow, 2 * 50_000 + 2 * 65_536), (policy(*NAMES), 1 << 20)):
        id = world.run(policy=rules)
        code, out, err = world.exec(id, "/usr/bin/python3", "-c", fetch)
        assert code == 0, err
        early, all = map(int, out.split())
        assert all > 200_000
        assert early <= most
        assert (early < 200_000) == (rules == slow)


@pytest.fixture
def site() -> Iterator[int]:
    """A server on the host's loopback, as a model server would be."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def until(what: Callable[[], Any], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def test_proxy_and_daemon_die(daemon: Daemon, site: int) -> None:
    """An address that the policy lists is reached, be it internal: after either has died, and by claimed agents."""
    rule = f"127.0.0.1:{site}"
    fetch = get(f"http://{rule}/")
    started = daemon.run(*SLEEP, policy=policy(rule))
    daemon.template("t", policy=policy(rule), pool=1)
    claimed = daemon.claim("t", "-c", "import time; time.sleep(1000)").id

    def served(id: str) -> bool:
        try:
            return ask(daemon, id, fetch)[0].endswith("hello")
        except (AssertionError, grpc.RpcError):
            return False

    for id in (started, claimed):
        assert served(id)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if words[0] == b"gpve-egress-proxy" and parent == daemon.pid:
            os.kill(int(entry.name), signal.SIGKILL)
    for id in (started, claimed):
        until(lambda id=id: served(id))
    daemon.kill()
    daemon.start()
    for id in (started, claimed):
        until(lambda id=id: served(id))
