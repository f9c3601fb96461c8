"""Put a VM's disks back to a snapshot. What was written since is lost: the commit point."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single
from gpve.tasks.flows.snapshots import Snapshot, known


def rollback(vm: Context) -> Command:
    """Put it back."""
    return on(vm, "vm.rollback", name=vm.body.name)


vm_rollback = single("vm", "rollback", rollback, body=Snapshot, check=known)
