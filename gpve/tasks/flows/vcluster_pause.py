"""Pause a vCluster: its control plane stands still in memory. Its endpoint stays, and so does what it claims."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def pause(vcluster: Context) -> Command:
    """Freeze its control plane."""
    return on(vcluster, "vcluster.pause")


def unpause(vcluster: Context) -> Command:
    """Let it go on."""
    return on(vcluster, "vcluster.unpause")


vcluster_pause = single("vcluster", "pause", pause, undo=unpause)
