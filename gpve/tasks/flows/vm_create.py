"""Create a VM: place it, make its volumes and ports, define it, start it. All or nothing."""

from dataclasses import replace
from typing import Annotated

from pydantic import ConfigDict, Field

from gpve.tasks.flow import Command, Context, Flow, Step
from gpve.tasks.flows.create import (
    Created,
    Disk,
    Ranked,
    autostart,
    close,
    drop_volumes,
    locks,
    make_volumes,
    open_,
    place,
    plug_ports,
    unplug_ports,
)
from gpve.tasks.flows.guests import on, ports, read, spec, unplace, volumes

Disks = Annotated[tuple[Disk, ...], Field(strict=False, min_length=1, max_length=32)]


class VmCreateFirst(Created):
    """A VM to create."""

    model_config = ConfigDict(title="VmCreate")
    disks: Disks = Field(default=(Disk(size_gib=8),), description="The volumes that are made for it, at least one.")

    def volumes_to_make(self) -> tuple[Disk, ...]:
        """Its disks."""
        return self.disks


class VmCreate(VmCreateFirst, Ranked):
    """A VM to create."""


def define(vm: Context) -> Command:
    """Tell the hypervisor of it."""
    return on(vm, "vm.define", spec=dict(spec(vm)), volumes=volumes(vm), ports=ports(vm))


def undefine(vm: Context) -> Command:
    """Have the hypervisor forget it."""
    return on(vm, "vm.undefine")


def start(vm: Context) -> Command:
    """Power on."""
    return on(vm, "vm.start")


def stop_hard(vm: Context) -> Command:
    """Power off, at once."""
    return on(vm, "vm.stop")


vm_create = Flow(
    "vm_create",
    version=2,
    body=VmCreate,
    open=open_("vm"),
    locks=locks,
    read=read,
    close=close,
    steps=[
        Step("place", place, undo=unplace, waits=True),
        Step("volumes", make_volumes, undo=drop_volumes),
        Step("ports", plug_ports, undo=unplug_ports, needs=("place",)),
        Step("define", define, undo=undefine, needs=("volumes", "ports")),
        Step("start", start, undo=stop_hard, only_if=autostart),
    ],
)
vm_create_first = replace(vm_create, version=1, body=VmCreateFirst)
"""As it was before priorities: tasks of it may be in somebody's store."""
