"""Delete a vCluster with its datastore and snapshots. Erasing them is the commit point; until then it can come back."""

from gpve.tasks.flow import Flow, Step
from gpve.tasks.flows.create import plug_ports, unplug_ports
from gpve.tasks.flows.guests import OnGuest, begin, end, leave, only_guest, read
from gpve.tasks.flows.vcluster_create import define, register, undefine, unregister
from gpve.tasks.flows.vm_delete import erase

vcluster_delete = Flow(
    "vcluster_delete",
    version=1,
    body=OnGuest,
    open=begin("vcluster", "delete"),
    locks=only_guest,
    read=read,
    close=end("delete"),
    steps=[
        Step("endpoint", unregister, undo=register),
        Step("undefine", undefine, undo=define),
        Step("unplug", unplug_ports, undo=plug_ports),
        Step("erase", erase, commit=True),
        Step("leave", leave),
    ],
)
