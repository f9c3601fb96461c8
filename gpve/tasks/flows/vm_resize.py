"""Resize a VM: its hypervisor is told, and a running guest."""

from gpve.tasks.flows.resize import Resize, resizing


class VmResize(Resize):
    """``cpu_milli``, ``memory_mib``: what it shall have; None: as it is."""


vm_resize = resizing("vm", VmResize)
