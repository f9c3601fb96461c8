"""Recover a guest whose node is dead: start it on another node, with its volumes, which are in a shared pool.

The start is the commit point. What the guest claimed on its first node is given back afterwards, and what is left of
it there is noted, for the node to remove when it comes back. Nobody asks for this flow but high availability itself.
"""

from collections.abc import Callable
from typing import Any

from gpve.tasks.errors import Forbidden
from gpve.tasks.events import decode, encode
from gpve.tasks.flow import Command, Context, Flow, InStore, Step
from gpve.tasks.flows.agent_start import confine, open_workspace, unconfine
from gpve.tasks.flows.agent_start import start as start_agent
from gpve.tasks.flows.create import plug_ports, unplug_ports
from gpve.tasks.flows.guests import OnGuest, begin, end, find_place, on, only_guest, read, spec, unplace, volumes
from gpve.tasks.flows.vcluster_create import define as define_plane
from gpve.tasks.flows.vcluster_create import register, unregister
from gpve.tasks.flows.vcluster_create import start as start_plane
from gpve.tasks.flows.vcluster_create import undefine as undefine_plane
from gpve.tasks.flows.vm_create import define, start, undefine
from gpve.tasks.ledger import Row, Tx


def place(guest: Context) -> Command:
    """Anywhere but where it was."""
    return find_place(guest, "recovery", never=(_before(guest),))


def map_volumes(guest: Context) -> Command:
    """The new node takes its volumes out of their shared pool, with the snapshots that are in them."""
    return on(guest, "volume.map", volumes=volumes(guest), snapshots=list(spec(guest).get("snapshots", ())))


def unmap_volumes(guest: Context) -> Command:
    """The new node lets go of them."""
    return on(guest, "volume.unmap", volumes=volumes(guest))


def discard_workspace(agent: Context) -> Command:
    """The new node forgets the workspace that it made."""
    return on(agent, "agent.close", remove=True)


def follow(guest: Context) -> Command:
    """The store says where it is."""
    return InStore("follow", {"guest": guest.target, "node": guest.node})


def abandon(guest: Context) -> Command:
    """What it claimed on its first node is free; what is left of it there is noted."""
    return InStore("abandon", {"guest": guest.target, "node": _before(guest)})


def _before(guest: Context) -> str:
    return str(guest.facts["guest"]["node"])


def _dead(tx: Tx, guest: Row, body: Any) -> None:
    name = f"recover {guest['kind']} {guest['id']}"
    node = tx.get("node", guest["node"])
    if node is not None and node["alive"]:
        raise Forbidden(name, f"on node {guest['node']}, which is alive", ())
    if not decode(guest["spec"])["ha"]:
        raise Forbidden(name, f"without ha: who knows whether node {guest['node']} still runs it", ())


def _without_snapshots(tx: Tx, agent: Context, row: Row) -> Row:
    """Checkpoints of an agent are in its workspace, and that is lost."""
    return {**row, "spec": encode({**decode(row["spec"]), "snapshots": []})}


def _flow(kind: str, steps: list[Step], after: Callable[[Tx, Context, Row], Row] | None = None) -> Flow:
    return Flow(
        f"{kind}_recover",
        version=1,
        body=OnGuest,
        open=begin(kind, "recover", _dead),
        locks=only_guest,
        read=read,
        close=end("recover", after),
        steps=[
            Step("place", place, undo=unplace, waits=True),
            *steps,
            Step("follow", follow),
            Step("abandon", abandon),
        ],
    )


vm_recover = _flow(
    "vm",
    [
        Step("volumes", map_volumes, undo=unmap_volumes),
        Step("ports", plug_ports, undo=unplug_ports, needs=("place",)),
        Step("define", define, undo=undefine, needs=("volumes", "ports")),
        Step("start", start, commit=True),
    ],
)
vcluster_recover = _flow(
    "vcluster",
    [
        Step("datastore", map_volumes, undo=unmap_volumes),
        Step("ports", plug_ports, undo=unplug_ports, needs=("place",)),
        Step("define", define_plane, undo=undefine_plane, needs=("datastore", "ports")),
        Step("endpoint", register, undo=unregister),
        Step("start", start_plane, commit=True),
    ],
)
agent_recover = _flow(
    "agent",
    [
        Step("workspace", open_workspace, undo=discard_workspace),
        Step("sandbox", confine, undo=unconfine),
        Step("start", start_agent, commit=True),
    ],
    after=_without_snapshots,
)
RECOVER = {"vm": vm_recover, "vcluster": vcluster_recover, "agent": agent_recover}
"""By kind."""
