"""Put a vCluster's datastore back to a snapshot. What was written since is lost: the commit point."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single
from gpve.tasks.flows.snapshots import Snapshot, known


def restore(vcluster: Context) -> Command:
    """Put it back."""
    return on(vcluster, "vcluster.restore", name=vcluster.body.name)


vcluster_restore = single("vcluster", "restore", restore, body=Snapshot, check=known)
