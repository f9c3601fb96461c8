"""Migrate a VM to another node, live if it runs, else its disks alone. It runs on one node at every moment.

The source copies and, when the rest is small, holds the guest still; the target takes over, which is the commit point.
Both ends are claimed until then; afterwards the source is cleaned and given back.
"""

from typing import Any

from pydantic import Field

from gpve.tasks.errors import Forbidden, NotFound
from gpve.tasks.flow import Command, Context, Flow, InStore, Step
from gpve.tasks.flows.create import NodeName
from gpve.tasks.flows.guests import (
    OnGuest,
    begin,
    end,
    find_place,
    on,
    only_guest,
    ports,
    read,
    release,
    spec,
    unplace,
    volumes,
    was,
)
from gpve.tasks.ledger import Row, Tx


class VmMigrate(OnGuest):
    """Where a VM shall go."""

    to: NodeName | None = Field(default=None, description="The one target that will do; null: the scheduler's choice.")


def _source(vm: Context) -> str:
    return str(vm.facts["guest"]["node"])


def place(vm: Context) -> Command:
    """Anywhere but where it is."""
    return find_place(vm, "incoming", only=vm.body.to, never=(_source(vm),))


def prepare(vm: Context) -> Command:
    """The target makes volumes and ports, and waits for the guest."""
    return on(vm, "vm.prepare", spec=dict(spec(vm)), volumes=volumes(vm), ports=ports(vm))


def discard(vm: Context) -> Command:
    """The target forgets what it prepared."""
    return on(vm, "vm.discard", volumes=volumes(vm), ports=ports(vm))


def transfer(vm: Context) -> Command:
    """The source copies memory and disks, and holds the guest still at the end."""
    return on(vm, "vm.transfer", _source(vm), to=vm.node, memory_mib=spec(vm)["memory_mib"])


def abort(vm: Context) -> Command:
    """The source stops copying, and lets the guest run as before."""
    return on(vm, "vm.abort", _source(vm))


def switch(vm: Context) -> Command:
    """The target takes over."""
    return on(vm, "vm.switch", running=was(vm, "running"))


def follow(vm: Context) -> Command:
    """The store says so."""
    return InStore("follow", {"guest": vm.target, "node": vm.node})


def clean(vm: Context) -> Command:
    """The source forgets the guest, its volumes and its ports."""
    return on(vm, "vm.clean", _source(vm), volumes=volumes(vm), ports=ports(vm))


def leave(vm: Context) -> Command:
    """What it claimed at the source is free."""
    return release(vm, _source(vm))


def _elsewhere(tx: Tx, guest: Row, body: Any) -> None:
    if body.to is not None and tx.get("node", body.to) is None:
        raise NotFound("node", body.to)
    if body.to == guest["node"]:
        raise Forbidden(f"migrate vm {guest['id']} to {body.to}", "there", ("another node",))


vm_migrate = Flow(
    "vm_migrate",
    version=1,
    body=VmMigrate,
    open=begin("vm", "migrate", _elsewhere),
    locks=only_guest,
    read=read,
    close=end("migrate"),
    steps=[
        Step("place", place, undo=unplace),
        Step("prepare", prepare, undo=discard),
        Step("transfer", transfer, undo=abort, attempt_s=3_600.0, deadline_s=7_200.0),
        Step("switch", switch, commit=True),
        Step("follow", follow),
        Step("clean", clean),
        Step("leave", leave),
    ],
)
