"""Pause an agent: its processes stand still in memory. What it claims stays its own."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def pause(agent: Context) -> Command:
    """Freeze its processes."""
    return on(agent, "agent.pause")


def unpause(agent: Context) -> Command:
    """Let them go on."""
    return on(agent, "agent.unpause")


agent_pause = single("agent", "pause", pause, undo=unpause)
