"""What creating a guest of any kind shares: its body, its row, its quota, and what becomes of them."""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from gpve.model.phases import MOVES
from gpve.tasks.errors import BadBody, Forbidden, NotFound
from gpve.tasks.events import encode
from gpve.tasks.flow import Body, Command, Context, Lock, Opened
from gpve.tasks.flows import guests
from gpve.tasks.flows.guests import Name, on, ports, volumes
from gpve.tasks.ledger import Key, Looks, Tx

Amount = Annotated[int, Field(ge=1, le=1 << 40)]
Gib = Annotated[int, Field(ge=1, le=1 << 20)]
Pool = Annotated[str, Field(min_length=1, max_length=64)]
NodeName = Annotated[str, Field(min_length=1, max_length=253)]


POOL = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?")
LOCAL = "local"
"""The pool of a node's own disks; every other pool is shared by the nodes."""


class Disk(Body):
    """A volume to make: its pool, and its size in GiB."""

    pool: Pool = Field(
        default=LOCAL, description="`local`: the node's own disks; every other pool is shared by the nodes."
    )
    size_gib: Gib = Field(description="GiB.")


class Created(Body):
    """A guest to create: amounts in cpu_milli (1000: one core), memory_mib and, device by device, gpu_milli."""

    name: Name = Field(description="No other guest of the project has it; not digits alone, or it looks like a number.")
    cpu_milli: Amount = Field(description="1000 is a core.")
    memory_mib: Amount = Field(description="MiB.")
    gpu_count: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="Devices.")
    gpu_milli: Annotated[int, Field(ge=0, le=1000)] = Field(default=0, description="Of each device; 1000 is all of it.")
    networks: Annotated[tuple[str, ...], Field(strict=False, max_length=16)] = Field(
        default=(), description="By name: it gets a port in each."
    )
    node: NodeName | None = Field(
        default=None,
        description="Where it starts; null: the scheduler's choice. Later it may move as any other: by a migration, a "
        "drain, high availability.",
    )
    autostart: bool = Field(default=True, description="Whether it runs when it is made.")
    ha: bool = Field(
        default=False,
        description="Restart it elsewhere when its node dies. Its volumes must be in a shared pool; an agent starts "
        "with an empty workspace there.",
    )

    @model_validator(mode="after")
    def _shared_volumes(self) -> Self:
        if self.ha and any(disk.pool == LOCAL for disk in self.volumes_to_make()):
            problem = f"its volumes must be in a shared pool, since those in {LOCAL!r} die with their node; name one"
            raise BadBody("create", "ha", problem)
        return self

    def looks_at(self, project: str) -> Looks:
        """As in `gpve.tasks.flow.Body`."""
        rows: list[tuple[str, Key]] = [("network", (network,)) for network in self.networks]
        rows += [("node", (self.node,))] if self.node is not None else []
        return Looks(rows, [("guest", {"project": project, "name": self.name})])

    def made_of(self) -> dict[str, Any]:
        """The guest's spec."""
        amounts = {"cpu_milli": self.cpu_milli, "memory_mib": self.memory_mib}
        return amounts | {"gpu_count": self.gpu_count, "gpu_milli": self.gpu_milli, "ha": self.ha}

    def volumes_to_make(self) -> tuple[Disk, ...]:
        """What it keeps its data on."""
        return ()


class Ranked(Created):
    """A guest to create, with a rank among those that wait."""

    priority: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0, description="Of those that wait, the larger goes first."
    )

    def made_of(self) -> dict[str, Any]:
        """The guest's spec."""
        return super().made_of() | {"priority": self.priority}


def check_pool(pool: str, field: str) -> None:
    """Raises `BadBody` if that is no name. Asked of new tasks: those under way keep their body."""
    if not POOL.fullmatch(pool):
        raise BadBody("create", field, f"{pool!r} is no name: letters, digits, and . _ - between them")


def mac_of(guest: int, port: int) -> str:
    """A locally administered address that no other port of the cluster has."""
    number = guest << 4 | port
    return "02:" + ":".join(f"{number >> shift & 0xFF:02x}" for shift in (32, 24, 16, 8, 0))


def usable(tx: Tx, network: str) -> None:
    """Raise unless guests may have ports in a network: a port's row keeps it from being deleted from then on."""
    row = tx.get("network", network)
    if row is None:
        raise NotFound("network", network)
    if row["task"] is not None:
        raise Forbidden(f"use network {network!r}", f"in the hands of task {row['task']}", ("wait for its end",))


def plug_into(tx: Tx, guest: int, networks: Iterable[str]) -> None:
    """Give a guest a port in each network. Raises `NotFound`, or `Forbidden` for a second port in one."""
    there = tx.where("port", guest=guest)
    free = (at for at in range(16) if mac_of(guest, at) not in {port["mac"] for port in there})
    taken = {port["network"] for port in there}
    for network in networks:
        usable(tx, network)
        if network in taken:
            raise Forbidden(f"plug guest {guest} into {network!r}", "plugged into it", ("another network",))
        mac = next((mac_of(guest, at) for at in free), None)
        if mac is None:
            raise Forbidden(f"plug guest {guest} into {network!r}", "at 16 ports, the most", ("network-detach",))
        taken.add(network)
        tx.put("port", {"guest": guest, "network": network, "mac": mac})


def register(
    tx: Tx, kind: str, wish: Any, task: int, made_of: dict[str, Any], disks: Iterable[Any], networks: Iterable[str]
) -> int:
    """Write a guest that is being made: its row, volumes and ports, and its share of the quota. Its number."""
    body = wish.body
    for other in tx.where("guest", project=wish.project, name=body.name):
        raise Forbidden(f"create {kind} {body.name!r}", f"the name of guest {other['id']}", ("another name",))
    if body.node is not None and tx.get("node", body.node) is None:
        raise NotFound("node", body.node)
    guest = tx.take("guest")
    guests.charge(tx, wish.project, guests.charged_for(made_of), +1)
    row = {"id": guest, "kind": kind, "name": body.name, "project": wish.project, "phase_before": None}
    phase = MOVES[kind]["create"].during
    tx.put("guest", {**row, "phase": phase, "task": task, "node": None, "spec": encode(made_of)})
    for at, disk in enumerate(disks):
        check_pool(disk.pool, f"disks.{at}.pool" if "disks" in type(body).model_fields else "pool")
        volume = {"id": f"{guest}-{at}", "guest": guest, "pool": disk.pool, "node": None}
        tx.put("volume", {**volume, "size_gib": disk.size_gib, "task": task})
    plug_into(tx, guest, networks)
    return guest


def open_(kind: str) -> Callable[[Tx, Any, int], Opened]:
    """`Flow.open`: the guest's row, its volumes, its ports and its quota, announced in one transaction."""

    def announce(tx: Tx, wish: Any, task: int) -> Opened:
        body = wish.body
        return Opened(register(tx, kind, wish, task, body.made_of(), body.volumes_to_make(), body.networks))

    return announce


def locks(target: Any, body: Any) -> list[Lock]:
    """The guest, and its networks, which others may use as well but nobody may delete."""
    return [guests.guest_lock(target), *(Lock(f"network/{name}", shared=True) for name in body.networks)]


def settle(tx: Tx, seen: Context, done: bool, phase: str) -> None:
    """The guest that was made is there and steady, or gone without a trace."""
    guest = tx.get("guest", seen.target)
    if guest is None:
        return
    if not done:
        guests.forget(tx, guest)
        return
    placed = seen.results.get("place")
    node = placed["node"] if placed else None
    for volume in tx.where("volume", guest=guest["id"]):
        tx.put("volume", {**volume, "node": node, "task": None})
    for row in tx.where("claim", guest=guest["id"]):
        tx.put("claim", {**row, "task": None})
    tx.put("guest", {**guest, "phase": phase, "task": None, "node": node})


def close(tx: Tx, seen: Context, done: bool) -> None:
    """`Flow.close`: as `settle`; it runs if that was wished."""
    settle(tx, seen, done, "running" if seen.body.autostart else "stopped")


def autostart(seen: Context) -> bool:
    """Whether it is to run when it is made."""
    return bool(seen.body.autostart)


def place(seen: Context) -> Command:
    """Wherever it fits."""
    return guests.find_place(seen, "placement", only=seen.body.node)


def make_volumes(seen: Context) -> Command:
    """All of its volumes."""
    return on(seen, "volume.create", volumes=volumes(seen))


def drop_volumes(seen: Context) -> Command:
    """All of its volumes."""
    return on(seen, "volume.delete", volumes=volumes(seen))


def plug_ports(seen: Context) -> Command:
    """A port in each of its networks."""
    return on(seen, "port.plug", ports=ports(seen))


def unplug_ports(seen: Context) -> Command:
    """A port in each of its networks."""
    return on(seen, "port.unplug", ports=ports(seen))
