"""``gpve vm``, ``gpve vcluster``, ``gpve agent``: guests, and an operation for each of their flows."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.output import ContextName, Form, Output, Project, Wait, amount, cluster, rows, show, told

if TYPE_CHECKING:
    from gpve.client import Client, Task

Arguments = dict[str, tuple[type, bool]]
"""By name: of which type, and whether it must be given."""
_NAMED: Arguments = {"name": (str, True)}
_CLONE: Arguments = {"name": (str, True), "node": (str, False)}
OPERATIONS: dict[str, dict[str, Arguments]] = {
    "vm": {
        "start": {},
        "shutdown": {"within_s": (int, False)},
        "stop": {},
        "reboot": {},
        "pause": {},
        "resume": {},
        "migrate": {"to": (str, False)},
        "resize": {"cpu_milli": (int, False), "memory_mib": (int, False)},
        "clone": _CLONE,
        "snapshot": _NAMED,
        "rollback": _NAMED,
        "delete": {},
    },
    "vcluster": {
        "start": {},
        "stop": {},
        "pause": {},
        "resume": {},
        "sleep": {},
        "wake": {},
        "resize": {"cpu_milli": (int, False), "memory_mib": (int, False)},
        "upgrade": {"version": (str, True)},
        "clone": _CLONE,
        "snapshot": _NAMED,
        "restore": _NAMED,
        "delete": {},
    },
    "agent": {
        "start": {},
        "stop": {},
        "restart": {},
        "pause": {},
        "resume": {},
        "checkpoint": _NAMED,
        "restore": _NAMED,
        "delete": {},
    },
}
"""By kind and operation: its arguments. Written down, since to ask the flows takes half a second (a test compares)."""
WORDS = {"vm": "VMs", "vcluster": "vClusters", "agent": "AI agents"}
Guest = Annotated[str, typer.Argument(help="Its number, or its name.")]
Cpu = Annotated[float, typer.Option(help="Cores.", min=0.001)]
Memory = Annotated[str, typer.Option(help="As 512M or 4G.")]
Network = Annotated[list[str] | None, typer.Option(help="A network to have a port in; may be repeated.")]
Node = Annotated[str | None, typer.Option(help="Where it starts; later it may move.")]
Ha = Annotated[bool, typer.Option(help="Restart it elsewhere when its node dies.")]
Start = Annotated[bool, typer.Option(help="Start it.")]
Priority = Annotated[int, typer.Option(help="Of those that wait for a place, the larger is asked for first.")]
File = Annotated[
    Path | None, typer.Option("-f", "--file", help="The whole specification, YAML or JSON; - is standard input.")
]
Gpus = Annotated[int, typer.Option(help="Devices.", min=0)]
GpuShare = Annotated[int, typer.Option(help="Thousandths of each device.", min=0, max=1000)]


def app_of(kind: str) -> typer.Typer:
    """The commands of one kind."""
    made = typer.Typer(no_args_is_help=True, help=f"Create, list, show, start, stop, ... {WORDS[kind]}.")
    creates: dict[str, Callable[..., None]] = {"vm": _create_vm, "vcluster": _create_vcluster, "agent": _create_agent}
    made.command("create")(creates[kind])
    made.command("list")(_list(kind))
    made.command("show")(_show(kind))
    for operation, arguments in OPERATIONS[kind].items():
        made.command(operation)(_act(kind, operation, arguments))
    if kind == "agent":
        made.command("logs")(_logs)
        made.command("exec")(_exec)
        made.command("status")(_status)
    return made


def _common(
    name: str,
    cpu: float,
    memory: str,
    network: list[str] | None,
    node: str | None,
    ha: bool,
    start: bool,
    priority: int,
) -> dict[str, Any]:
    return {
        "name": name,
        "cpu_milli": round(1000 * cpu),
        "memory_mib": amount(memory, "MiB"),
        "networks": network or [],
        "node": node,
        "ha": ha,
        "autostart": start,
        "priority": priority,
    }


@contextmanager
def _made(
    kind: str, spec: dict[str, Any], file: Path | None, project: str | None, context: str | None
) -> "Iterator[tuple[Client, Task]]":
    """A guest is created; the client, and the task."""
    if file is not None:
        spec = _read(file) | ({"name": spec["name"]} if spec["name"] else {})
    with cluster(context) as client:
        yield client, client.create(kind, spec, project=project)


def _read(file: Path) -> dict[str, Any]:
    import yaml

    from gpve.model.errors import InputError

    try:
        found = yaml.safe_load(sys.stdin.read() if str(file) == "-" else file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"no specification: {error}", file=file) from error
    if not isinstance(found, dict):
        raise InputError("no specification: a mapping is wanted", file=file)
    return found


def _create_vm(
    name: Annotated[str, typer.Argument(help="Its name.")] = "",
    cpu: Cpu = 1.0,
    memory: Memory = "1G",
    disk: Annotated[list[str] | None, typer.Option(help="Of a disk, as 20G or POOL:20G; may be repeated.")] = None,
    gpus: Gpus = 0,
    gpu_share: GpuShare = 0,
    network: Network = None,
    node: Node = None,
    ha: Ha = False,
    start: Start = True,
    priority: Priority = 0,
    file: File = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Create a VM.

    Example: gpve vm create web --cpu 2 --memory 4G --disk 20G --wait
    """
    spec = _common(name, cpu, memory, network, node, ha, start, priority)
    spec |= {"gpu_count": gpus, "gpu_milli": gpu_share or (1000 if gpus else 0)}
    if disk:
        spec["disks"] = [_disk(one) for one in disk]
    with _made("vm", spec, file, project, context) as (client, task):
        told(client, task, output, wait)


def _disk(text: str) -> dict[str, Any]:
    pool, _, size = text.rpartition(":")
    return {"size_gib": amount(size, "GiB")} | ({"pool": pool} if pool else {})


def _create_vcluster(
    name: Annotated[str, typer.Argument(help="Its name.")] = "",
    cpu: Cpu = 1.0,
    memory: Memory = "1G",
    version: Annotated[str | None, typer.Option(help="Of Kubernetes, as v1.31.0.")] = None,
    pool: Annotated[str | None, typer.Option(help="Where its datastore is.")] = None,
    network: Network = None,
    node: Node = None,
    ha: Ha = False,
    start: Start = True,
    priority: Priority = 0,
    file: File = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Create a vCluster.

    Example: gpve vcluster create team-a --version v1.31.0 --wait
    """
    spec = _common(name, cpu, memory, network, node, ha, start, priority)
    spec |= {key: value for key, value in (("version", version), ("pool", pool)) if value is not None}
    with _made("vcluster", spec, file, project, context) as (client, task):
        told(client, task, output, wait)


def _create_agent(
    name: Annotated[str, typer.Argument(help="Its name.")] = "",
    program: Annotated[list[str] | None, typer.Argument(help="What it runs, after --.")] = None,
    cpu: Cpu = 1.0,
    memory: Memory = "256M",
    policy: Annotated[Path | None, typer.Option(help="What it may do: a file, TOML or JSON.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    restart: Annotated[str, typer.Option(help="never, on-failure or always.")] = "on-failure",
    liveness: Annotated[
        str | None, typer.Option(help="A command that says with 0 that it is well; else it is restarted.")
    ] = None,
    node: Node = None,
    ha: Ha = False,
    start: Start = True,
    priority: Priority = 0,
    file: File = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Create an AI agent.

    Example: gpve agent create scout --memory 256M --policy scout.toml --wait -- /usr/bin/python3 agent.py
    """
    import shlex

    from gpve.model.errors import InputError

    spec = _common(name, cpu, memory, None, node, ha, start, priority)
    if program:
        variables = [one.partition("=") for one in env or []]
        if any(not sign for _, sign, _ in variables):
            raise InputError("NAME=VALUE is wanted", column="--env")
        spec["program"] = {"argv": program, "restart": {"when": restart}, "env": {n: v for n, _, v in variables}}
        if policy is not None:
            try:
                spec["program"]["policy"] = policy.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"no policy: {error}", file=policy) from error
        if liveness is not None:
            spec["program"]["liveness"] = {"exec": shlex.split(liveness)}
    with _made("agent", spec, file, project, context) as (client, task):
        told(client, task, output, wait)


def _list(kind: str) -> Callable[..., None]:
    def list_(
        project: Project = None,
        node: Annotated[str | None, typer.Option(help="Only those on this node.")] = None,
        phase: Annotated[str | None, typer.Option(help="Only those in this phase, as running.")] = None,
        output: Output = Form.TABLE,
        context: ContextName = None,
    ) -> None:
        with cluster(context) as client:
            found = list(client.list(kind, project=project, node=node, phase=phase))
        lines = [
            (
                str(one.id),
                one.name,
                one.project,
                one.phase,
                one.node or "",
                f"{one.spec['cpu_milli'] / 1000:g}",
                f"{one.spec['memory_mib']} MiB",
            )
            for one in found
        ]
        header = ("id", "name", "project", "phase", "node", "cores", "memory")
        show(found, output, lambda: rows("", lines, header, f"no {WORDS[kind]}"))

    list_.__doc__ = f"List {WORDS[kind]}.\n\nExample: gpve {kind} list --phase running -o json"
    return list_


def _show(kind: str) -> Callable[..., None]:
    def show_(guest: Guest, output: Output = Form.TABLE, context: ContextName = None) -> None:
        with cluster(context) as client:
            found = client.get(kind, guest)

        def table() -> None:
            typer.echo(f"{found.kind} {found.id} ({found.name}) of project {found.project}: {found.phase}")
            typer.echo(f"  node      {found.node or 'none yet'}")
            if found.task is not None:
                typer.echo(f"  task      {found.task}{': ' + found.waits_for if found.waits_for else ''}")
            for key, value in found.spec.items():
                if value not in (None, [], False, 0):
                    typer.echo(f"  {key:9s} {value}")

        show(found, output, table)

    show_.__doc__ = f"Show one of the {WORDS[kind]}.\n\nExample: gpve {kind} show web -o yaml"
    return show_


def _act(kind: str, operation: str, takes: Arguments) -> Callable[..., None]:
    """A command for an operation: what it needs are arguments, what it may have are options."""

    def act(**given: Any) -> None:
        guest, output, wait, context = (given.pop(name) for name in ("guest", "output", "wait", "context"))
        arguments = {name: value for name, value in given.items() if value is not None}
        with cluster(context) as client:
            number = client.get(kind, guest).id
            told(client, client.act(kind, operation, number, arguments or None), output, wait)

    parameter, keyword = inspect.Parameter, inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter("guest", keyword, annotation=Guest)]
    example = ""
    for name, (plain, required) in takes.items():
        if required:
            annotation: Any = Annotated[plain, typer.Argument(help=f"{name} of the operation.")]
            parameters.append(parameter(name, keyword, annotation=annotation))
            example += f" {name.upper()}"
        else:
            annotation = Annotated[plain | None, typer.Option(help=f"{name}; default: as it is.")]
            parameters.append(parameter(name, keyword, annotation=annotation, default=None))
    parameters += [
        parameter("wait", keyword, annotation=Wait, default=False),
        parameter("output", keyword, annotation=Output, default=Form.TABLE),
        parameter("context", keyword, annotation=ContextName, default=None),
    ]
    act.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    act.__annotations__ = {one.name: one.annotation for one in parameters}
    act.__doc__ = (
        f"{operation.capitalize()} one of the {WORDS[kind]}.\n\nExample: gpve {kind} {operation} 100{example} --wait"
    )
    return act


def _logs(
    guest: Guest,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes.")] = False,
    tail: Annotated[int, typer.Option(help="Only about so many bytes from the end; 0: all.", min=0)] = 0,
    context: ContextName = None,
) -> None:
    """Print an agent's output.

    Example: gpve agent logs scout --follow
    """
    with cluster(context) as client:
        for piece in client.logs(client.get("agent", guest).id, follow=follow, tail_bytes=tail):
            _print(piece)


def _exec(
    guest: Guest,
    command: Annotated[list[str], typer.Argument(help="The program, after --.")],
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it what is read here.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds; 0: none.", min=0.0)] = 60.0,
    context: ContextName = None,
) -> None:
    """Run one more program inside an agent, under the same policy. Its exit code is the command's.

    Example: gpve agent exec scout -- /bin/ls -l
    """
    given = sys.stdin.read() if stdin else ""
    code = 0
    with cluster(context) as client:
        number = client.get("agent", guest).id
        for piece in client.exec(number, command, stdin=given, timeout_ms=int(1000 * timeout)):
            if piece.exit is not None:
                code = piece.exit
            else:
                _print(piece)
    raise typer.Exit(code if code >= 0 else 128 - code)


def _print(piece: Any) -> None:
    stream = sys.stdout if piece.stream == "stdout" else sys.stderr
    stream.buffer.write(piece.data)
    stream.flush()


def _status(guest: Guest, output: Output = Form.TABLE, context: ContextName = None) -> None:
    """What an agent's node says of it now: state, restarts, last exit, what it uses.

    Example: gpve agent status scout -o json
    """
    with cluster(context) as client:
        said = client.agent_status(client.get("agent", guest).id)

    def table() -> None:
        for key, value in said.items():
            typer.echo(f"{key:10s} {value}")

    show(said, output, table)
