"""A node agent from its start to its end."""

import asyncio
import logging
import signal
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from gpve.model.errors import InputError
from gpve.model.kinds import KINDS
from gpve.node import facts, identity
from gpve.node.executor import Executor
from gpve.node.journal import Disk, Journal
from gpve.node.node import Node
from gpve.node.runtime import Runtime
from gpve.node.session import Link
from gpve.node.simulated import Simulated

LOG = logging.getLogger(__name__)
RUNTIME_SOCKET = Path("/run/gpve-agentrt.sock")


@dataclass(frozen=True)
class Settings:
    """``directory``: its identity and journal. ``agents``: real, simulated, or auto (real where it works)."""

    directory: Path
    server: str = ""
    token: str = ""
    name: str = ""
    socket: Path = RUNTIME_SOCKET
    agents: str = "auto"
    reserved_mib: int = 512
    cpu_milli: int = 0
    """0: what this machine has."""
    memory_mib: int = 0
    work_s: float = 0.0
    """How long an operation of the simulated executor takes."""
    simulated: bool = True
    """Whether guests that cannot run for real here are simulated; else they are not taken."""


def serve(settings: Settings) -> None:
    """Join if need be, and serve until a signal asks for the end; guests go on. Raises `InputError`."""
    try:
        settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        me = identity.load(settings.directory) or _join(settings)
        disk = Disk(settings.directory / "journal.db")
        disk.forget()
    except (OSError, sqlite3.Error) as error:
        raise InputError(f"{settings.directory} cannot be written: {error}") from error
    if settings.name not in ("", me.name):
        raise InputError(f"{settings.directory} is of node {me.name}, not {settings.name}")
    asyncio.run(_serve(settings, me, disk))


def _join(settings: Settings) -> identity.Identity:
    """Raises `InputError`, or `OSError` if the identity cannot be kept."""
    if not (settings.server and settings.token and settings.name):
        raise InputError(f"{settings.directory} has no identity yet: say --server, --token and --name")
    identity.try_to_keep(settings.directory)
    me = identity.join(settings.server, settings.token, settings.name)
    identity.keep(settings.directory, me)
    return me


def preflight(settings: Settings) -> dict[str, Any]:
    """What works on this machine, and what is missing."""

    async def ask() -> dict[str, Any]:
        disk = Disk(":memory:")
        runtime, check = await _runtime(settings, Journal(disk, ""))
        if runtime is not None:
            await runtime.close()
        at = settings.directory if settings.directory.exists() else Path("/")
        found = facts.look(at, settings.reserved_mib, [check, facts.check_vms(), facts.check_vclusters()])
        return {"cpu_milli": found.cpu_milli, "memory_mib": found.memory_mib, **found.told}

    return asyncio.run(ask())


async def _serve(settings: Settings, me: identity.Identity, disk: Disk) -> None:
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    journal = Journal(disk, me.name)
    executors: dict[str, Executor] = {"": Simulated(journal, settings.work_s)} if settings.simulated else {}
    runtime, check = await _runtime(settings, journal)
    if runtime is not None:
        executors["agent"] = runtime
    if not executors:
        raise InputError(f"no guest could run here: {check.why}; and none shall be simulated")
    found = replace(
        _facts(settings, [check, facts.check_vms(), facts.check_vclusters()]),
        kinds=KINDS if settings.simulated else tuple(executors),
        simulated=tuple(kind for kind in KINDS if kind not in executors) if settings.simulated else (),
    )
    link = Link(
        Node(me.name, journal, executors, facts.spent),
        me,
        facts.boot_id(),
        found,
        partial(identity.keep, settings.directory),
    )
    LOG.info("node %s: %d milli-CPU, %d MiB", me.name, found.cpu_milli, found.memory_mib)
    tasks = [asyncio.create_task(link.run()), asyncio.create_task(over.wait())]
    if runtime is not None:
        tasks.append(asyncio.create_task(_watch(runtime, link)))
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    if runtime is not None:
        await runtime.close()
    try:
        disk.close()
    except sqlite3.Error as error:
        LOG.warning("the journal cannot be written at the end: %s", error, extra={"node": me.name})
    for task in done:
        task.result()


async def _runtime(settings: Settings, journal: Journal) -> tuple[Runtime | None, facts.Check]:
    """The executor of agents, if it is wanted and works."""
    if settings.agents == "simulated":
        return None, facts.check_agents(None, (), "simulated, as was wished")
    runtime = Runtime(settings.socket, journal, settings.directory / "checkpoints")
    try:
        info = await runtime.info()
    except grpc.RpcError as error:
        await runtime.close()
        problem = f"no Agent Runtime answers at {settings.socket}"
        if settings.agents == "real":
            raise InputError(f"{problem}: {error.details()}") from error
        return None, facts.check_agents(None, (), problem)
    return runtime, facts.check_agents(info.version, list(info.enforceable), "")


async def _watch(runtime: Runtime, link: Link) -> None:
    async for guest in runtime.ended():
        link.seen(guest)


def _facts(settings: Settings, checks: list[facts.Check]) -> facts.Facts:
    found = facts.look(settings.directory, settings.reserved_mib, checks)
    wanted: Mapping[str, int] = {"cpu_milli": settings.cpu_milli, "memory_mib": settings.memory_mib}
    return replace(
        found,
        cpu_milli=wanted["cpu_milli"] or found.cpu_milli,
        memory_mib=wanted["memory_mib"] or found.memory_mib,
    )
