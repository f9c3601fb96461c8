"""What creating a guest of any kind shares: its body, its row, its quota, and what becomes of them."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from gpve.model.phases import MOVES
from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.events import encode
from gpve.tasks.flow import Body, Context, Lock, Opened
from gpve.tasks.flows import guests
from gpve.tasks.ledger import Tx

Amount = Annotated[int, Field(ge=1, le=1 << 40)]


class Created(Body):
    """A guest to create: amounts in cpu_milli (1000: one core), memory_mib and, device by device, gpu_milli."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
    cpu_milli: Amount
    memory_mib: Amount
    gpu_count: Annotated[int, Field(ge=0, le=64)] = 0
    gpu_milli: Annotated[int, Field(ge=0, le=1000)] = 0
    networks: Annotated[tuple[str, ...], Field(strict=False, max_length=16)] = ()
    node: str | None = None
    """The one node that will do; None: the scheduler's choice."""
    autostart: bool = True
    ha: bool = False
    """Restart it elsewhere when its node dies."""


def mac_of(guest: int, port: int) -> str:
    """A locally administered address that no other port of the cluster has."""
    number = guest << 4 | port
    return "02:" + ":".join(f"{number >> shift & 0xFF:02x}" for shift in (32, 24, 16, 8, 0))


def open_(kind: str) -> Callable[[Tx, Any, int], Opened]:
    """`Flow.open`: the guest's row, its volumes, its ports and its quota, announced in one transaction."""
    during = MOVES[kind]["create"].during

    def announce(tx: Tx, wish: Any, task: int) -> Opened:
        body = wish.body
        for other in tx.where("guest", project=wish.project, name=body.name):
            raise Forbidden(f"create {kind} {body.name!r}", f"the name of guest {other['id']}", ("another name",))
        if body.node is not None and tx.get("node", body.node) is None:
            raise NotFound("node", body.node)
        guest = tx.take("guest")
        made = {"cpu_milli": body.cpu_milli, "memory_mib": body.memory_mib}
        made |= {"gpu_count": body.gpu_count, "gpu_milli": body.gpu_milli, "ha": body.ha}
        guests.charge(tx, wish.project, guests.charged_for(made), +1)
        row = {
            "id": guest,
            "kind": kind,
            "name": body.name,
            "project": wish.project,
            "phase": during,
            "phase_before": None,
        }
        tx.put("guest", {**row, "task": task, "node": None, "spec": encode(made)})
        for at, disk in enumerate(getattr(body, "disks", ())):
            volume = {"id": f"{guest}-{at}", "guest": guest, "pool": disk.pool, "node": None}
            tx.put("volume", {**volume, "size_gib": disk.size_gib, "task": task})
        for at, network in enumerate(body.networks):
            if tx.get("network", network) is None:
                raise NotFound("network", network)
            tx.put("port", {"guest": guest, "network": network, "mac": mac_of(guest, at)})
        return Opened(guest)

    return announce


def locks(target: Any, body: Any) -> list[Lock]:
    """The guest, and its networks, which others may use as well but nobody may delete."""
    return [guests.guest_lock(target), *(Lock(f"network/{name}", shared=True) for name in body.networks)]


def close(kind: str) -> Callable[[Tx, Context, bool], None]:
    """`Flow.close`: the guest is there and steady, or gone without a trace."""

    def settle(tx: Tx, seen: Context, done: bool) -> None:
        guest = tx.get("guest", seen.target)
        if guest is None:
            return
        if not done:
            guests.forget(tx, guest)
            return
        for volume in tx.where("volume", guest=guest["id"]):
            tx.put("volume", {**volume, "node": seen.node, "task": None})
        for row in tx.where("claim", guest=guest["id"]):
            tx.put("claim", {**row, "task": None})
        phase = "running" if seen.body.autostart else "stopped"
        tx.put("guest", {**guest, "phase": phase, "task": None, "node": seen.node})

    return settle
