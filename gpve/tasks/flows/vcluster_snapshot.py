"""Take a snapshot of a vCluster's datastore."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single
from gpve.tasks.flows.snapshots import Snapshot, fresh, noted


def snapshot(vcluster: Context) -> Command:
    """Take it."""
    return on(vcluster, "vcluster.snapshot", name=vcluster.body.name)


def unsnapshot(vcluster: Context) -> Command:
    """Drop it."""
    return on(vcluster, "vcluster.unsnapshot", name=vcluster.body.name)


vcluster_snapshot = single("vcluster", "snapshot", snapshot, undo=unsnapshot, body=Snapshot, check=fresh, after=noted)
