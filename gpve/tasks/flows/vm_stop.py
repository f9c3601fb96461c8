"""Stop a VM: power off, at once. What was in its memory is lost: the commit point."""

from gpve.tasks.flows.single import single
from gpve.tasks.flows.vm_create import stop_hard

vm_stop = single("vm", "stop", stop_hard)
