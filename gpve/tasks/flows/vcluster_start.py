"""Start a vCluster where it is: what it needs there it has claimed all the time."""

from gpve.tasks.flows.single import single
from gpve.tasks.flows.vcluster_create import start, stop

vcluster_start = single("vcluster", "start", start, undo=stop)
