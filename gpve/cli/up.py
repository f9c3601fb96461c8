"""``gpve up`` and ``gpve down``: a platform of one server and one node on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail

if TYPE_CHECKING:
    from gpve.client import Context

GPVE = [sys.executable, "-c", "from gpve.cli.main import main; main()"]
CONTEXT = "local"
Home = Annotated[Path | None, typer.Option("--dir", help="Where it is kept; default: ~/.local/share/gpve.")]
PATIENCE_S = 90.0


def _home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "gpve"


def up(
    directory: Home = None,
    api_port: Annotated[int, typer.Option(help="Of the HTTP API; gRPC and nodes have the next two.")] = 7460,
    runtime: Annotated[
        Path | None, typer.Option(help="The program gpve-agentrt; default: the one in PATH. As root only.")
    ] = None,
) -> None:
    """Start a server and a node here, over SQLite, and make it the current context.

    Agents run for real where gpve-agentrt is found and this is root; everything else is simulated.

    Example: gpve up
    """
    from gpve.client.contexts import Context, add

    directory = directory or _home()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if _running(directory):
        fail(f"it runs already (gpve down ends it); gpve context use {CONTEXT} means it", 1)
    server, node = directory / "server", directory / "node"
    ports = ["--api-port", str(api_port), "--rpc-port", str(api_port + 1), "--node-port", str(api_port + 2)]
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        started["server"] = _start(directory, "server", [*GPVE, "server", "--dir", str(server), *ports])
        url = f"https://127.0.0.1:{api_port}"
        context = Context((url,), *_when_ready(started["server"], directory, server, url))
        found = shutil.which(runtime or "gpve-agentrt")
        socket = directory / "agentrt.sock"
        agents = ["--agents", "simulated"]
        if found is not None and os.geteuid() == 0:
            command = [found, "daemon", "--root", str(directory / "agents"), "--socket", str(socket)]
            (directory / "agents").mkdir(exist_ok=True)
            started["agentrt"] = _start(directory, "agentrt", command)
            _until(socket.exists, started["agentrt"], directory / "agentrt.log")
            agents = ["--agents", "real", "--socket", str(socket)]
        command = [*GPVE, "node-agent", "--dir", str(node), *agents]
        if not (node / "node.json").exists():
            command += ["--server", url, "--name", "local", "--token", _token(context)]
        started["node"] = _start(directory, "node", command)
        _until(lambda: _there(context), started["node"], directory / "node.log")
    except BaseException:
        for process in started.values():
            process.terminate()
        raise
    _note(directory, {name: process.pid for name, process in started.items()})
    add(CONTEXT, context)
    real = "for real" if "agentrt" in started else "simulated (gpve-agentrt was not found, or this is not root)"
    typer.echo(f"GPVE runs at {url} (documentation of the API: {url}/api/v1/docs)")
    typer.echo(f"  log in        gpve ... uses context {CONTEXT!r}; others: the token in {server / 'token'}")
    typer.echo(f"  authority     {server / 'ca.pem'}")
    typer.echo(f"  agents        {real}; VMs and vClusters are simulated in this version")
    typer.echo("  try           gpve vm create web --wait && gpve vm list")


def down(
    directory: Home = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove everything of it: guests, database, identity.")
    ] = False,
) -> None:
    """End what `gpve up` started. Agents go on, and are adopted by the next `gpve up`.

    Example: gpve down
    """
    directory = directory or _home()
    running = _running(directory)
    if purge and "agentrt" in running:
        _clear(directory)
    for name in ("node", "server", "agentrt"):
        if name in running:
            os.kill(running[name], signal.SIGTERM)
    deadline = time.monotonic() + 30.0
    while left := _running(directory):
        if time.monotonic() > deadline:
            fail(f"these do not end: {left}", 1)
        time.sleep(0.1)
    (directory / "pids.json").unlink(missing_ok=True)
    if purge:
        shutil.rmtree(directory, ignore_errors=True)
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


def _when_ready(process: "subprocess.Popen[bytes]", directory: Path, server: Path, url: str) -> tuple[str, str]:
    """The token and the authority, once the server answers."""
    from gpve.client import ApiError, Client

    def answers() -> bool:
        try:
            token, ca = (server / "token").read_text().strip(), (server / "ca.pem").read_text()
            with Client([url], token, ca) as client:
                client.status()
            return True
        except (OSError, ApiError):
            return False

    _until(answers, process, directory / "server.log")
    return (server / "token").read_text().strip(), (server / "ca.pem").read_text()


def _token(context: "Context") -> str:
    from gpve.client import Client

    with Client(context.servers, context.token, context.ca) as client:
        return client.join_token("local")


def _there(context: "Context") -> bool:
    from gpve.client import Client

    with Client(context.servers, context.token, context.ca) as client:
        return any(node.alive for node in client.nodes())


def _note(directory: Path, pids: dict[str, int]) -> None:
    told = {name: [pid, _began(pid)] for name, pid in pids.items()}
    (directory / "pids.json").write_text(json.dumps(told))


def _began(pid: int) -> str | None:
    """When a process began: a number may be another process's by now. None: it has ended, seen by its parent or not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _running(directory: Path) -> dict[str, int]:
    """What `up` started and still runs."""
    try:
        told = json.loads((directory / "pids.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: pid for name, (pid, began) in told.items() if began is not None and _began(pid) == began}


def _clear(directory: Path) -> None:
    """Delete all agents of the runtime."""
    import grpc

    from gpve.runtime.v1 import runtime_pb2, runtime_pb2_grpc

    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{directory / 'agentrt.sock'}", options=options) as channel:
        daemon: Any = runtime_pb2_grpc.RuntimeServiceStub(channel)  # type: ignore[no-untyped-call]
        for agent in daemon.List(runtime_pb2.ListRequest()).agents:
            daemon.Delete(runtime_pb2.DeleteRequest(id=agent.id, force=True))
