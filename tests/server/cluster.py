"""A real cluster: servers, node agents and Agent Runtimes as processes, in one directory, on the loopback."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpve.client import ApiError, Client
from tests.agentrt.runtime.daemon import Daemon

GPVE = [sys.executable, "-c", "from gpve.cli.main import main; main()"]
QUICK = ("--lease", "3", "--node-lease", "3", "--node-margin", "1")
"""Leases under which a death is noticed soon."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def until(true: Callable[[], Any], patience_s: float = 30.0, what: str = "") -> Any:
    """Wait until something is so; what it returned."""
    deadline = time.monotonic() + patience_s
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience_s:g} s: {what or true}"
        time.sleep(0.05)


class Process:
    """A process of the cluster, with its log."""

    def __init__(self, arguments: Sequence[object], log: Path, within: Sequence[str] = ()) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*within, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self, patience_s: float = 30.0) -> int:
        """SIGTERM; its exit code."""
        if self.running:
            self._process.terminate()
        return self._process.wait(patience_s)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Server(Process):
    """``gpve server``; started anew it keeps its ports and its directory, and has another name."""

    def __init__(
        self, directory: Path, database: str = "", options: Sequence[str] = QUICK, host: str = "127.0.0.1"
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory, self.database, self.options, self.host = directory, database, options, host
        ports = free_ports(3)
        self.ports = ports
        self.url = f"https://{host}:{ports[0]}"
        self.start()

    def arguments(self) -> list[object]:
        """Its command line."""
        api, rpc, node = self.ports
        arguments = [*GPVE, "server", "--dir", self.directory, "--bind", self.host, "--api-port", api]
        arguments += ["--rpc-port", rpc, "--node-port", node, *self.options]
        return [*arguments, "--database", self.database] if self.database else arguments

    def start(self) -> "Server":
        super().__init__(self.arguments(), self.directory / "log")
        return self

    def client(self, token: str) -> Client:
        return Client([self.url], token, (self.directory / "ca.pem").read_text())

    def ready(self, token: Callable[[], str]) -> "Server":
        def answers() -> bool:
            assert self.running, self.said()[-3000:]
            try:
                with self.client(token()) as client:
                    client._http.get(f"{self.url}/readyz", timeout=2.0).raise_for_status()
                    return True
            except Exception:
                return False

        until(answers, 60.0, f"{self.url} ready")
        return self


class NodeAgent(Process):
    """``gpve node-agent``."""

    def __init__(
        self,
        directory: Path,
        name: str,
        server: str,
        token: str,
        options: Sequence[object] = (),
        within: Sequence[str] = (),
    ) -> None:
        self.directory, self.name, self.options, self.within = directory, name, options, within
        directory.mkdir(exist_ok=True)
        self._join = ["--server", server, "--token", token, "--name", name]
        self.start()

    def start(self) -> "NodeAgent":
        arguments = [*GPVE, "node-agent", "--dir", self.directory, *self.options]
        if not (self.directory / "node.json").exists():
            arguments += self._join
        super().__init__(arguments, self.directory / "log", self.within)
        return self


class Cluster:
    """Servers and nodes by name. Every process ends with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.servers: dict[str, Server] = {}
        self.nodes: dict[str, NodeAgent] = {}
        self.daemons: dict[str, Daemon] = {}
        self._clients: list[Client] = []

    def token(self) -> str:
        """Of whichever server was the first one: only that one has written it down."""
        for server in self.servers.values():
            path = server.directory / "token"
            if path.exists():
                return path.read_text().strip()
        raise AssertionError("no server has a token yet")

    def server(self, name: str, database: str = "", options: Sequence[str] = QUICK, host: str = "127.0.0.1") -> Server:
        made = self.servers[name] = Server(self.directory / name, database, options, host)
        return made.ready(self.token)

    def client(self, *names: str) -> Client:
        """Of these servers; none: of all."""
        servers = [self.servers[name] for name in names or self.servers]
        client = Client([one.url for one in servers], self.token(), (servers[0].directory / "ca.pem").read_text())
        self._clients.append(client)
        return client

    def node(
        self, name: str, options: Sequence[object] = (), runtime: bool = False, within: Sequence[str] = ()
    ) -> NodeAgent:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        if runtime:
            daemon = self.daemons[name] = Daemon(directory / "r").start()
            options = [*options, "--agents", "real", "--socket", daemon.socket]
        else:
            options = [*options, "--agents", "simulated"]
        client = self.client()
        made = self.nodes[name] = NodeAgent(
            directory, name, next(iter(self.servers.values())).url, client.join_token(), options, within
        )

        def there() -> bool:
            assert made.running, made.said()[-3000:]
            return any(node.name == name and node.alive for node in client.nodes())

        until(there, 30.0, f"node {name}")
        return made

    def end(self) -> None:
        for client in self._clients:
            client.close()
        for process in [*self.nodes.values(), *self.servers.values()]:
            if process.running:
                process.kill()
        for daemon in self.daemons.values():
            if daemon.process is None or daemon.process.poll() is not None:
                daemon.start()
            daemon.clear()
            daemon.stop()

    def defects(self) -> list[str]:
        """Lines of the logs that should not be there."""
        found = []
        for process in [*self.servers.values(), *self.nodes.values()]:
            found += [line[:2000] for line in process.said().splitlines() if '"error"' in line or "Traceback" in line]
        return found


@contextmanager
def one_node(cpu: int, memory: int) -> Iterator[Cluster]:
    """A cluster of one server and one node, for all tests of a file; it must come out of them unharmed."""
    directory = Path(tempfile.mkdtemp(prefix="gpve-"))
    made = Cluster(directory)
    try:
        made.server("s")
        made.node("a", ("--cpu", cpu, "--memory", memory))
        yield made
        assert made.servers["s"].running
        assert made.defects() == []
    finally:
        made.end()
        shutil.rmtree(directory)


def done(client: Client, task: Any, patience_s: float = 60.0) -> Any:
    """The task when it is over; it must be done."""
    deadline = time.monotonic() + patience_s
    for each in client.follow(task.id):
        task = each
        assert time.monotonic() < deadline, task
    assert task.status == "done", (task, client.task(task.id).log[-3:])
    return task


def refused(status: int, kind: str, *words: str) -> Any:
    """The call inside is refused so, in a sentence with these words."""

    class Refused:
        error: ApiError

        def __enter__(self) -> "Refused":
            return self

        def __exit__(self, type_: object, error: BaseException | None, trace: object) -> bool:
            assert isinstance(error, ApiError), f"it was not refused ({error!r})"
            assert (error.status, error.kind) == (status, kind), (error.status, error.problem)
            for word in words:
                assert word in str(error.problem), error.problem
            self.error = error
            return True

    return Refused()
