"""Take a snapshot of a VM's disks, at one moment for all of them."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single
from gpve.tasks.flows.snapshots import Snapshot, fresh, noted


def snapshot(vm: Context) -> Command:
    """Take it."""
    return on(vm, "vm.snapshot", name=vm.body.name)


def unsnapshot(vm: Context) -> Command:
    """Drop it."""
    return on(vm, "vm.unsnapshot", name=vm.body.name)


vm_snapshot = single("vm", "snapshot", snapshot, undo=unsnapshot, body=Snapshot, check=fresh, after=noted)
