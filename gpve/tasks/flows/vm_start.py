"""Start a VM where it is: what it needs there it has claimed all the time."""

from gpve.tasks.flows.single import single
from gpve.tasks.flows.vm_create import start, stop_hard

vm_start = single("vm", "start", start, undo=stop_hard)
