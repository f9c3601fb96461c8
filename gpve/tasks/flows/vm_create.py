"""Create a VM: place it, make its volumes and ports, define it, start it. All or nothing."""

from typing import Annotated

from pydantic import Field

from gpve.tasks.flow import Body, Command, Context, Flow, Place, Step
from gpve.tasks.flows.create import Created, close, locks, open_
from gpve.tasks.flows.guests import on, ports, read, spec, unplace, volumes


class Disk(Body):
    """A volume to make: its pool, and its size in GiB."""

    pool: Annotated[str, Field(min_length=1, max_length=64)] = "local"
    size_gib: Annotated[int, Field(ge=1, le=1 << 20)]


class VmCreate(Created):
    """A VM to create. ``disks``: at least one."""

    disks: Annotated[tuple[Disk, ...], Field(strict=False, min_length=1, max_length=32)] = (Disk(size_gib=8),)


def place(vm: Context) -> Command:
    """Wherever it fits."""
    return Place(int(vm.target or 0), spec(vm), role="placement", only=vm.body.node)


def make_volumes(vm: Context) -> Command:
    """All of its disks."""
    return on(vm, "volume.create", volumes=volumes(vm))


def drop_volumes(vm: Context) -> Command:
    """All of its disks."""
    return on(vm, "volume.delete", volumes=volumes(vm))


def plug_ports(vm: Context) -> Command:
    """A port in each of its networks."""
    return on(vm, "port.plug", ports=ports(vm))


def unplug_ports(vm: Context) -> Command:
    """A port in each of its networks."""
    return on(vm, "port.unplug", ports=ports(vm))


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
    version=1,
    body=VmCreate,
    open=open_("vm"),
    locks=locks,
    read=read,
    close=close("vm"),
    steps=[
        Step("place", place, undo=unplace, waits=True),
        Step("volumes", make_volumes, undo=drop_volumes),
        Step("ports", plug_ports, undo=unplug_ports, needs=("place",)),
        Step("define", define, undo=undefine, needs=("volumes", "ports")),
        Step("start", start, undo=stop_hard, only_if=lambda vm: bool(vm.body.autostart)),
    ],
)
