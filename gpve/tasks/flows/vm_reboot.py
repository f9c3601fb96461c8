"""Reboot a VM: reset it, at once. What was in its memory is lost: the commit point."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def reboot(vm: Context) -> Command:
    """Reset. ``boot``: by which the node knows whether it did so already."""
    return on(vm, "vm.reboot", boot=vm.task)


vm_reboot = single("vm", "reboot", reboot)
