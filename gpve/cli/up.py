"""``gpve up`` and ``gpve down``: a platform of one server and one node on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail

if TYPE_CHECKING:
    from gpve.client import Client, Context

GPVE = [sys.executable, "-c", "from gpve.cli.main import main; main()"]
PORT = 7460
NODE = "local"
"""What the node is called."""
Home = Annotated[Path | None, typer.Option("--dir", help="Where it is kept; default: ~/.local/share/gpve.")]
PATIENCE_S = 90.0
PARTS = ("server", "agentrt", "node")
"""The processes, in the order in which they are started."""


@dataclass
class Platform:
    """What `up` knows of one directory. ``began``: of its processes, by name, their numbers and when they began."""

    directory: Path
    api_port: int = PORT
    began: dict[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> "Platform":
        """As it was written down."""
        try:
            told = json.loads((directory / "up.json").read_text())
            began = {name: (int(pid), str(at)) for name, (pid, at) in told["began"].items()}
            return cls(directory, int(told["api_port"]), began)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(directory)

    def note(self) -> None:
        """Write it down."""
        (self.directory / "up.json").write_text(json.dumps({"api_port": self.api_port, "began": self.began}))

    def running(self) -> dict[str, int]:
        """What `up` started and still runs."""
        return {name: pid for name, (pid, at) in self.began.items() if _began(pid) == at}

    @property
    def url(self) -> str:
        """Of the API."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def socket(self) -> Path:
        """Of the Agent Runtime."""
        return self.directory / "agentrt.sock"

    def access(self) -> "Context":
        """How to log in to the server. Raises `OSError` before its first start."""
        from gpve.client import Context

        server = self.directory / "server"
        return Context((self.url,), (server / "token").read_text().strip(), (server / "ca.pem").read_text())


def _home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "gpve"


def up(
    directory: Home = None,
    api_port: Annotated[
        int | None,
        typer.Option(
            help=f"Of the HTTP API; gRPC and nodes have the next two; default: as before, at first {PORT}.",
            min=1,
            max=65533,
        ),
    ] = None,
    runtime: Annotated[
        Path | None, typer.Option(help="The program gpve-agentrt; default: the one in PATH. As root only.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="What to call its context; default: local, or local-2, ... if that is another's.")
    ] = None,
) -> None:
    """Start a server and a node here, over SQLite, and make it the current context.

    What runs already is left alone: where something of it died, only that is started. Agents run for real where
    gpve-agentrt is found and this is root; everything else is simulated.

    Example: gpve up
    """
    from gpve.client.contexts import add, own

    found = _program(runtime)
    here = Platform.of(directory or _home())
    here.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    ran = here.running()
    if api_port not in (None, here.api_port) and (ran or (here.directory / "node" / "node.json").exists()):
        fail(f"its API is at port {here.api_port}, where its node looks for it: leave --api-port out")
    here.api_port = api_port or here.api_port
    authority = here.directory / "server" / "ca.pem"
    # Whether the name may be had is to be known before anything is started.
    own(authority.read_text() if authority.exists() else "", context)
    missing = [name for name in _wanted(here, ran, found) if name not in ran]
    _launch(here, missing, found)
    access = here.access()
    name = own(access.ca or "", context)
    add(name, access)
    if not missing:
        typer.echo(f"it runs already, at {here.url} (gpve down ends it); context {name!r} means it")
        return
    if ran:
        typer.echo(f"started: {', '.join(missing)}; what ran already: {', '.join(ran)}")
    real = "for real" if "agentrt" in here.began else "simulated (gpve-agentrt was not found, or this is not root)"
    typer.echo(f"GPVE runs at {here.url} (documentation of the API: {here.url}/api/v1/docs)")
    typer.echo(
        f"  log in        gpve ... uses context {name!r}; others: the token in {here.directory / 'server/token'}"
    )
    typer.echo(f"  authority     {here.directory / 'server/ca.pem'}")
    typer.echo(f"  agents        {real}; VMs and vClusters are simulated in this version")
    typer.echo("  try           gpve vm create web --wait && gpve vm list")


def _program(runtime: Path | None) -> str | None:
    """The Agent Runtime's program; None: agents are simulated. Raises `InputError` if one is named that will not do."""
    from gpve.model.errors import InputError

    found = shutil.which(runtime or "gpve-agentrt")
    if runtime is not None and found is None:
        raise InputError(f"there is no program {runtime}; without it agents are simulated", column="--runtime")
    if runtime is not None and os.geteuid() != 0:
        raise InputError("agents run for real as root only; without it they are simulated", column="--runtime")
    return found if os.geteuid() == 0 else None


def _wanted(here: Platform, ran: dict[str, int], found: str | None) -> list[str]:
    """What has to run. A node that runs goes on as it began: with the runtime, or without."""
    real = "agentrt" in here.began if "node" in ran else "agentrt" in ran or found is not None
    if real and found is None and "agentrt" not in ran:
        fail("agents run for real here, but gpve-agentrt is not in PATH any more: say --runtime, as root", 1)
    return [name for name in PARTS if real or name != "agentrt"]


def _launch(here: Platform, missing: list[str], found: str | None) -> None:
    """Start what is missing; if something of it does not start, nothing of it is left running."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in missing:
            started[name] = _start(
                here.directory, name, _command(here, name, found, "agentrt" in [*missing, *here.running()])
            )
            _until(_ready(here, name), started[name], here.directory / f"{name}.log")
    except BaseException:
        for process in started.values():
            process.terminate()
        raise
    now = {name: (pid, _began(pid) or "") for name, pid in here.running().items()}
    now |= {name: (process.pid, _began(process.pid) or "") for name, process in started.items()}
    here.began = now
    here.note()


def _command(here: Platform, name: str, found: str | None, real: bool) -> list[str]:
    """The command line of a process."""
    if name == "server":
        ports = [str(here.api_port + at) for at in range(3)]
        options = ["--api-port", ports[0], "--rpc-port", ports[1], "--node-port", ports[2]]
        return [*GPVE, "server", "--dir", str(here.directory / "server"), *options]
    if name == "agentrt":
        root = here.directory / "agents"
        root.mkdir(exist_ok=True)
        return [str(found), "daemon", "--root", str(root), "--socket", str(here.socket)]
    node = here.directory / "node"
    agents = ["--agents", "real", "--socket", str(here.socket)] if real else ["--agents", "simulated"]
    command = [*GPVE, "node-agent", "--dir", str(node), *agents]
    if not (node / "node.json").exists():
        with _client(here) as client:
            command += ["--server", here.url, "--name", NODE, "--token", client.join_token(NODE)]
    return command


def _ready(here: Platform, name: str) -> Callable[[], bool]:
    """Whether a process does its work."""
    from gpve.client import ApiError

    def answers() -> bool:
        try:
            with _client(here) as client:
                # A node that was killed is alive to the server for a while: only one that answers is there.
                return bool(client.status() if name == "server" else client.usage(NODE))
        except (OSError, ApiError):
            return False

    return (lambda: _listens(here.socket)) if name == "agentrt" else answers


def _client(here: Platform) -> "Client":
    from gpve.client import Client

    access = here.access()
    return Client(access.servers, access.token, access.ca, patience_s=0.0)


def _listens(path: Path) -> bool:
    """Whether somebody serves a socket: one may lie there that nobody serves any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def down(
    directory: Home = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove everything of it: guests, database, identity, its context.")
    ] = False,
) -> None:
    """End what `gpve up` started. Agents go on, and are adopted by the next `gpve up`.

    Example: gpve down
    """
    from gpve.client.contexts import forget

    here = Platform.of(directory or _home())
    running = here.running()
    if purge and "agentrt" in running:
        _clear(here.socket)
    for name in reversed(PARTS):
        if name in running:
            os.kill(running[name], signal.SIGTERM)
    deadline = time.monotonic() + 30.0
    while left := here.running():
        if time.monotonic() > deadline:
            fail(f"these do not end: {left}", 1)
        time.sleep(0.1)
    if purge:
        authority = here.directory / "server" / "ca.pem"
        gone = forget(authority.read_text()) if authority.exists() else []
        shutil.rmtree(here.directory, ignore_errors=True)
        typer.echo(f"removed: {here.directory}{''.join(f', context {name}' for name in gone)}")
    typer.echo(f"ended: {', '.join(running) or 'nothing ran'}")


def _start(directory: Path, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
    with (directory / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _until(true: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if process.poll() is not None:
            fail(f"it did not start; {log} says:\n{log.read_text()[-1000:]}", 1)
        if time.monotonic() > deadline:
            fail(f"it is not ready after {PATIENCE_S:g} s; see {log}", 1)
        time.sleep(0.1)


def _began(pid: int) -> str | None:
    """When a process began: a number may be another process's by now. None: it has ended, seen by its parent or not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _clear(socket: Path) -> None:
    """Delete all agents of the runtime."""
    import grpc

    from gpve.runtime.v1 import runtime_pb2, runtime_pb2_grpc

    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        daemon: Any = runtime_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]
        for agent in daemon.List(runtime_pb2.ListRequest()).agents:
            daemon.Delete(runtime_pb2.DeleteRequest(id=agent.id, force=True))
