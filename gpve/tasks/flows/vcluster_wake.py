"""Wake a vCluster: its control plane starts over the datastore that it left."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def wake(vcluster: Context) -> Command:
    """Start its control plane."""
    return on(vcluster, "vcluster.wake")


def unwake(vcluster: Context) -> Command:
    """Put it to sleep again."""
    return on(vcluster, "vcluster.unwake")


vcluster_wake = single("vcluster", "wake", wake, undo=unwake)
