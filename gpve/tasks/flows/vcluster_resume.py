"""Resume a vCluster that was paused: its control plane goes on where it stood."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def resume(vcluster: Context) -> Command:
    """Its control plane goes on."""
    return on(vcluster, "vcluster.resume")


def repause(vcluster: Context) -> Command:
    """It stands still again."""
    return on(vcluster, "vcluster.repause")


vcluster_resume = single("vcluster", "resume", resume, undo=repause)
