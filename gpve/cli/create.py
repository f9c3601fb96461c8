"""``gpve vm create`` and its like: specifications, from options and from files."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import finite
from gpve.cli.output import ContextName, Form, Output, Project, Wait, amount, cluster, told

if TYPE_CHECKING:
    from gpve.client import Client, Task

CPU, MEMORY, AGENT_MEMORY = 1.0, "1G", "256M"
"""What a guest has of which neither an option nor a file says how much."""
MOST_CORES = 1e9
Name = Annotated[str | None, typer.Argument(help="Its name.")]
Cpu = Annotated[float | None, typer.Option(help="Cores; default: 1.", min=0.001, callback=finite)]
Memory = Annotated[str | None, typer.Option(help="As 512M or 4G; default: 1G.")]
Network = Annotated[list[str] | None, typer.Option(help="A network to have a port in; may be repeated.")]
Node = Annotated[str | None, typer.Option(help="Where it starts; later it may move.")]
Ha = Annotated[bool | None, typer.Option("--ha/--no-ha", help="Restart it elsewhere when its node dies.")]
Start = Annotated[bool | None, typer.Option("--start/--no-start", help="Start it; default: yes.")]
Priority = Annotated[
    int | None, typer.Option(help="Of those that wait for a place, the larger is asked for first; default: 0.")
]
File = Annotated[
    Path | None,
    typer.Option(
        "-f", "--file", help="A specification, YAML or JSON; - is standard input. What other options say wins over it."
    ),
]
Gpus = Annotated[int | None, typer.Option(help="Devices.", min=0)]
GpuShare = Annotated[int | None, typer.Option(help="Thousandths of each device; default: all of it.", min=0, max=1000)]


def milli(cores: float) -> int:
    """Milli-CPU."""
    from gpve.model.errors import InputError

    if cores > MOST_CORES:
        raise InputError(f"{cores:g} cores are more than there can be", column="--cpu")
    return round(1000 * cores)


def _common(
    name: str | None,
    cpu: float | None,
    memory: str | None,
    network: list[str] | None,
    node: str | None,
    ha: bool | None,
    start: bool | None,
    priority: int | None,
) -> dict[str, Any]:
    """What options say of any guest."""
    return {
        "name": name or None,
        "cpu_milli": None if cpu is None else milli(cpu),
        "memory_mib": None if memory is None else amount(memory, "MiB"),
        "networks": network or None,
        "node": node,
        "ha": ha,
        "autostart": start,
        "priority": priority,
    }


def _merged(said: dict[str, Any], file: Path | None, memory: str) -> dict[str, Any]:
    """What a file says and what options say, which wins; without a file what is missing gets its default."""
    said = {name: value for name, value in said.items() if value is not None}
    if file is not None:
        return _read(file) | said
    return {"name": "", "cpu_milli": milli(CPU), "memory_mib": amount(memory, "MiB")} | said


@contextmanager
def _made(kind: str, spec: dict[str, Any], project: str | None, context: str | None) -> "Iterator[tuple[Client, Task]]":
    """A guest is created; the client, and the task."""
    with cluster(context) as client:
        yield client, client.create(kind, spec, project=project)


def _read(file: Path) -> dict[str, Any]:
    import yaml

    from gpve.model.errors import InputError

    try:
        found = yaml.safe_load(sys.stdin.read() if str(file) == "-" else file.read_text())
        # YAML has dates and the like, which the API has not.
        json.dumps(found, allow_nan=False)
    except OSError as error:
        raise InputError(f"no specification: {error.strerror}", file=file) from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"no specification: {' '.join(str(error).split())}", file=file) from error
    if not isinstance(found, dict):
        raise InputError("no specification: a mapping is wanted", file=file)
    return found


def create_vm(
    name: Name = None,
    cpu: Cpu = None,
    memory: Memory = None,
    disk: Annotated[list[str] | None, typer.Option(help="Of a disk, as 20G or POOL:20G; may be repeated.")] = None,
    gpus: Gpus = None,
    gpu_share: GpuShare = None,
    network: Network = None,
    node: Node = None,
    ha: Ha = None,
    start: Start = None,
    priority: Priority = None,
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
    spec |= {"gpu_count": gpus, "gpu_milli": gpu_share, "disks": [_disk(one) for one in disk or []] or None}
    spec = _merged(spec, file, MEMORY)
    if gpus:
        spec.setdefault("gpu_milli", 1000)
    with _made("vm", spec, project, context) as (client, task):
        told(client, task, output, wait)


def _disk(text: str) -> dict[str, Any]:
    pool, _, size = text.rpartition(":")
    return {"size_gib": amount(size, "GiB")} | ({"pool": pool} if pool else {})


def create_vcluster(
    name: Name = None,
    cpu: Cpu = None,
    memory: Memory = None,
    version: Annotated[str | None, typer.Option(help="Of Kubernetes, as v1.31.0.")] = None,
    pool: Annotated[str | None, typer.Option(help="Where its datastore is.")] = None,
    network: Network = None,
    node: Node = None,
    ha: Ha = None,
    start: Start = None,
    priority: Priority = None,
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
    spec |= {"version": version, "pool": pool}
    with _made("vcluster", _merged(spec, file, MEMORY), project, context) as (client, task):
        told(client, task, output, wait)


def create_agent(
    name: Name = None,
    program: Annotated[list[str] | None, typer.Argument(help="What it runs, after --.")] = None,
    cpu: Cpu = None,
    memory: Annotated[str | None, typer.Option(help="As 64M or 4G; default: 256M.")] = None,
    policy: Annotated[Path | None, typer.Option(help="What it may do: a file, TOML or JSON.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    restart: Annotated[str | None, typer.Option(help="never, on-failure or always; default: on-failure.")] = None,
    liveness: Annotated[
        str | None, typer.Option(help="A command that says with 0 that it is well; else it is restarted.")
    ] = None,
    node: Node = None,
    ha: Ha = None,
    start: Start = None,
    priority: Priority = None,
    file: File = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Create an AI agent.

    Example: gpve agent create scout --memory 256M --policy scout.toml --wait -- /usr/bin/python3 agent.py
    """
    spec = _merged(_common(name, cpu, memory, None, node, ha, start, priority), file, AGENT_MEMORY)
    options = {"--policy": policy, "--env": env, "--restart": restart, "--liveness": liveness}
    _add_program(spec, program, {option: value for option, value in options.items() if value})
    with _made("agent", spec, project, context) as (client, task):
        told(client, task, output, wait)


def _add_program(spec: dict[str, Any], argv: list[str] | None, options: dict[str, Any]) -> None:
    """Put what was said of an agent's program into its specification."""
    from gpve.model.errors import InputError

    found = _mapping(spec, "program")
    if not argv and not found:
        if options:
            raise InputError("of which program? say it last, after --", column=min(options))
        return
    said: dict[str, Any] = {"argv": argv} if argv else {}
    if "--env" in options:
        said["env"] = _mapping(found, "env") | dict(map(_variable, options["--env"]))
    if "--policy" in options:
        try:
            said["policy"] = options["--policy"].read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"no policy: {error}", file=options["--policy"]) from error
    if "--restart" in options:
        said["restart"] = _mapping(found, "restart") | {"when": options["--restart"]}
    if "--liveness" in options:
        try:
            said["liveness"] = {"exec": shlex.split(options["--liveness"])}
        except ValueError as error:
            raise InputError(f"no command: {error}", column="--liveness") from error
    spec["program"] = found | said


def _mapping(of: dict[str, Any], name: str) -> dict[str, Any]:
    from gpve.model.errors import InputError

    found = of.get(name) or {}
    if not isinstance(found, dict):
        raise InputError("a mapping is wanted", column=name)
    return found


def _variable(text: str) -> tuple[str, str]:
    from gpve.model.errors import InputError

    name, sign, value = text.partition("=")
    if not sign:
        raise InputError("NAME=VALUE is wanted", column="--env")
    return name, value
