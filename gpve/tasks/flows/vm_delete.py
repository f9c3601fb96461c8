"""Delete a VM with its disks and their snapshots. Erasing them is the commit point; until then it can come back."""

from gpve.tasks.flow import Command, Context, Flow, Step
from gpve.tasks.flows.create import plug_ports, unplug_ports
from gpve.tasks.flows.guests import OnGuest, begin, end, leave, on, only_guest, read, volumes
from gpve.tasks.flows.vm_create import define, undefine


def erase(guest: Context) -> Command:
    """Its volumes, with all snapshots."""
    return on(guest, "volume.erase", volumes=volumes(guest))


vm_delete = Flow(
    "vm_delete",
    version=1,
    body=OnGuest,
    open=begin("vm", "delete"),
    locks=only_guest,
    read=read,
    close=end("delete"),
    steps=[
        Step("undefine", undefine, undo=define),
        Step("unplug", unplug_ports, undo=plug_ports),
        Step("erase", erase, commit=True),
        Step("leave", leave),
    ],
)
