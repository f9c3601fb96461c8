"""Pause a VM: its processors stand still. Its memory stays, and so does what it claims."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def pause(vm: Context) -> Command:
    """Its processors stand still."""
    return on(vm, "vm.pause")


def unpause(vm: Context) -> Command:
    """They go on."""
    return on(vm, "vm.unpause")


vm_pause = single("vm", "pause", pause, undo=unpause)
