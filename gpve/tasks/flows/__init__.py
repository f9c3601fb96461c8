"""The flows of GPVE, one file each: what happens, what undoes it and what it waits for, on one screen."""

from gpve.tasks.flow import Flows
from gpve.tasks.flows.agent_start import agent_start
from gpve.tasks.flows.vm_create import vm_create
from gpve.tasks.flows.vm_migrate import vm_migrate

FLOWS = Flows([vm_create, vm_migrate, agent_start])
"""All flows, in all the versions that tasks may have."""
