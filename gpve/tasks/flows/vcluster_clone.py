"""Clone a vCluster: hold its datastore still, copy it to where the clone fits, define and register that, let go."""

from gpve.tasks.flow import Flow, Step
from gpve.tasks.flows.clone import Clone, close, copy, hold, let_go, locks, open_, read
from gpve.tasks.flows.create import drop_volumes, place, plug_ports, unplug_ports
from gpve.tasks.flows.guests import unplace
from gpve.tasks.flows.vcluster_create import define, register, undefine, unregister

vcluster_clone = Flow(
    "vcluster_clone",
    version=1,
    body=Clone,
    open=open_("vcluster"),
    locks=locks,
    read=read,
    close=close,
    steps=[
        Step("place", place, undo=unplace),
        Step("hold", hold, undo=let_go),
        Step("copy", copy, undo=drop_volumes, attempt_s=3_600.0, deadline_s=7_200.0),
        Step("ports", plug_ports, undo=unplug_ports),
        Step("define", define, undo=undefine),
        Step("endpoint", register, undo=unregister),
        Step("let-go", let_go, commit=True),
    ],
)
