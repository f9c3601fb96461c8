"""Shut a VM down: ask its system to end, and wait. If it does not in time the task is undone, and it runs on.

What it does while it ends cannot be taken back: asking is the commit point.
"""

from typing import Annotated

from pydantic import Field

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import OnGuest, on
from gpve.tasks.flows.single import single


class VmShutdown(OnGuest):
    """A wish to a VM's system to end."""

    within_s: Annotated[int, Field(ge=1, le=600)] = Field(
        default=120, description="How long its system may take, seconds; then the wish is withdrawn, and it runs on."
    )


def shutdown(vm: Context) -> Command:
    """Press the power button, once, and wait."""
    return on(vm, "vm.shutdown", within_s=vm.body.within_s)


vm_shutdown = single("vm", "shutdown", shutdown, body=VmShutdown, attempt_s=660.0, deadline_s=2_700.0)
