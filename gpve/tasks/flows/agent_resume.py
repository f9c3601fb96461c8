"""Resume an agent that was paused: its processes go on where they stood."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single


def resume(agent: Context) -> Command:
    """Its processes go on."""
    return on(agent, "agent.resume")


def repause(agent: Context) -> Command:
    """They stand still again."""
    return on(agent, "agent.repause")


agent_resume = single("agent", "resume", resume, undo=repause)
