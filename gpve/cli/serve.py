"""``gpve server`` and ``gpve node-agent``: the long-running programs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gpve.cli.console import finite
from gpve.cli.guest_show import WORDS
from gpve.cli.output import Form, Output, rows, show

Level = Annotated[str, typer.Option(help="debug, info, warning or error.")]


def server(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where it keeps its certificate, its first token and its SQLite file.")
    ] = Path("/var/lib/gpve"),
    database: Annotated[
        str, typer.Option(help="mysql+pymysql://USER:PASSWORD@HOST/NAME; empty: SQLite.", envvar="GPVE_DATABASE")
    ] = "",
    bind: Annotated[str, typer.Option(help="The address to serve.")] = "127.0.0.1",
    advertise: Annotated[str, typer.Option(help="By which name or address others reach it.")] = "",
    api_port: Annotated[int, typer.Option(help="Of the HTTP API.", min=1, max=65535)] = 7460,
    rpc_port: Annotated[int, typer.Option(help="Of the gRPC API.", min=1, max=65535)] = 7461,
    node_port: Annotated[int, typer.Option(help="Of the sessions of nodes.", min=1, max=65535)] = 7462,
    tls: Annotated[bool, typer.Option(help="Serve the APIs over TLS. Without, on the loopback only.")] = True,
    policy: Annotated[str, typer.Option(help="How nodes are chosen.")] = "best-fit",
    name: Annotated[str, typer.Option(help="Of this server; every start needs its own.")] = "",
    node_lease: Annotated[
        float, typer.Option(help="Seconds that a beat gives a node.", min=1.0, callback=finite)
    ] = 15.0,
    node_margin: Annotated[
        float, typer.Option(help="Seconds more until it is declared dead.", min=0.5, callback=finite)
    ] = 5.0,
    lease: Annotated[
        float, typer.Option(help="Seconds until others take a dead server's tasks.", min=1.0, callback=finite)
    ] = 15.0,
    keep: Annotated[float, typer.Option(help="Days that a closed task is kept.", min=0.0, callback=finite)] = 7.0,
    log: Level = "info",
) -> None:
    """Serve a cluster: HTTP and gRPC, the sessions of its nodes, the engine of its tasks.

    Any number of servers may share one MySQL or MariaDB; all are active.

    Example: gpve server --dir /var/lib/gpve --database mysql+pymysql://gpve:secret@db/gpve --bind 0.0.0.0
    """
    import sys

    # Where it is installed, the compiler would load it for linear algebra, which no policy uses: 15 MiB for weeks.
    sys.modules.setdefault("scipy", None)  # type: ignore[arg-type]
    from gpve import logs
    from gpve.server.run import serve
    from gpve.server.settings import Settings

    logs.begin(log)
    more = {"name": name} if name else {}
    serve(
        Settings(
            directory,
            database,
            bind,
            advertise,
            api_port,
            rpc_port,
            node_port,
            tls,
            policy,
            **more,
            node_lease_s=node_lease,
            node_margin_s=node_margin,
            lease_s=lease,
            keep_s=keep * 86_400.0,
        )
    )


def node_agent(
    directory: Annotated[Path, typer.Option("--dir", help="Where it keeps its identity and its journal.")] = Path(
        "/var/lib/gpve-node"
    ),
    server: Annotated[str, typer.Option(help="To join: the URL of a server's API.", envvar="GPVE_SERVER")] = "",
    token: Annotated[str, typer.Option(help="To join: a token of `gpve node token`.", envvar="GPVE_JOIN_TOKEN")] = "",
    name: Annotated[str, typer.Option(help="To join: the node's name; default: the host's.")] = "",
    socket: Annotated[Path, typer.Option(help="The Agent Runtime's.")] = Path("/run/gpve-agentrt.sock"),
    agents: Annotated[str, typer.Option(help="real, simulated, or auto: real where the runtime answers.")] = "auto",
    simulated: Annotated[
        bool, typer.Option(help="Simulate guests that cannot run for real here; else take none of their kind.")
    ] = True,
    reserve: Annotated[int, typer.Option(help="MiB of memory that guests never get.", min=0)] = 512,
    cpu: Annotated[int, typer.Option(help="milli-CPU for guests; 0: all.", min=0)] = 0,
    memory: Annotated[int, typer.Option(help="MiB for guests; 0: all but the reserve.", min=0)] = 0,
    check: Annotated[bool, typer.Option("--check", help="Only say what works here and what is missing.")] = False,
    output: Output = Form.TABLE,
    log: Level = "info",
) -> None:
    """GPVE's own process on a node: dials in to a server, runs guests, beats.

    With --check the exit code is 1 if no kind of guest would run for real.

    Example: gpve node-agent --server https://10.0.0.1:7460 --token gpve_... --name rack1-a
    """
    import socket as sockets

    from gpve import logs
    from gpve.node.run import Settings, preflight, serve

    if agents not in ("real", "simulated", "auto"):
        raise typer.BadParameter("real, simulated or auto are wanted", param_hint="--agents")
    settings = Settings(
        directory,
        server,
        token,
        name or (sockets.gethostname().lower() if token else ""),
        socket,
        agents,
        reserve,
        cpu_milli=cpu,
        memory_mib=memory,
        simulated=simulated,
    )
    if check:
        found = preflight(settings)
        show(found, output, lambda: _tell(found))
        if not any(one["works"] for one in found["executors"].values()):
            raise typer.Exit(1)
        return
    logs.begin(log)
    serve(settings)


def _tell(found: dict[str, Any]) -> None:
    """What a machine has and what works on it, for people."""
    lines = [("host", f"{found['host']}, Linux {found['kernel']}")]
    lines += [("cores", f"{found['cpu_milli'] / 1000:g}"), ("memory", f"{found['memory_mib']:,} MiB")]
    lines += [(f"NUMA {one['node']}", f"CPUs {one['cpus']}, {one['memory_mib']:,} MiB") for one in found["numa"]]
    lines += [("GPU", f"{one['address']} ({one['vendor']} {one['device']})") for one in found["gpus"]]
    for one in found["storage"]:
        free, total = one["free_mib"] / 1024, one["total_mib"] / 1024
        lines.append((f"pool {one['pool']}", f"{one['path']}: {free:,.1f} GiB free of {total:,.1f} GiB"))
    lines += [(f"network {one['name']}", ", ".join(one["addresses"]) or "no address") for one in found["networks"]]
    for kind, one in found["executors"].items():
        lines.append((WORDS[kind], f"run for real: {one['why']}" if one["works"] else one["why"]))
    rows("", lines, ("what", "found"), "")


def swarm(
    count: Annotated[int, typer.Argument(help="How many.", min=1, max=10_000)] = 100,
    directory: Annotated[Path, typer.Option("--dir", help="Where they keep identities and journal.")] = Path(
        "/var/lib/gpve-swarm"
    ),
    context: Annotated[str | None, typer.Option(help="Of which cluster; default: the current one.")] = None,
    cpu: Annotated[int, typer.Option(help="milli-CPU of each.", min=1)] = 32_000,
    memory: Annotated[int, typer.Option(help="MiB of each.", min=1)] = 131_072,
    work_ms: Annotated[float, typer.Option(help="How long each operation takes.", min=0.0, callback=finite)] = 0.0,
    durable: Annotated[bool, typer.Option(help="Keep the journal on disk.")] = True,
    log: Level = "warning",
) -> None:
    """Many simulated nodes in one process: they join the cluster, and carry guests that do not exist.

    Example: gpve swarm 1000 --dir /tmp/swarm
    """
    from gpve import logs
    from gpve.client import connect
    from gpve.client.contexts import find
    from gpve.node import identity
    from gpve.node.swarm import serve

    logs.begin(log)
    server, client = find(context).servers[0], connect(context)

    def join(name: str) -> identity.Identity:
        return identity.join(server, client.join_token(name), name)

    serve(directory, count, join, cpu_milli=cpu, memory_mib=memory, work_s=work_ms / 1000.0, durable=durable)
