"""Stop a vCluster: its control plane ends, and what its pods held in memory is lost: the commit point."""

from gpve.tasks.flows.single import single
from gpve.tasks.flows.vcluster_create import stop

vcluster_stop = single("vcluster", "stop", stop)
