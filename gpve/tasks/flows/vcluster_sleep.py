"""Put a vCluster to sleep: its control plane ends, its datastore and endpoint stay, and a request may wake it."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def sleep(vcluster: Context) -> Command:
    """End its control plane in good order."""
    return on(vcluster, "vcluster.sleep")


def unsleep(vcluster: Context) -> Command:
    """Start it again."""
    return on(vcluster, "vcluster.unsleep")


vcluster_sleep = single("vcluster", "sleep", sleep, undo=unsleep)
