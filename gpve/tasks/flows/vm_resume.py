"""Resume a VM that was paused: it goes on where it stood."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def resume(vm: Context) -> Command:
    """Its processors go on."""
    return on(vm, "vm.resume")


def repause(vm: Context) -> Command:
    """They stand still again."""
    return on(vm, "vm.repause")


vm_resume = single("vm", "resume", resume, undo=repause)
