"""Restart an AI agent where it is, in a new sandbox: its workspace stays, its processes end. The commit point."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on, ports, spec
from gpve.tasks.flows.single import single


def restart(agent: Context) -> Command:
    """Whatever is left of its sandbox goes. ``boot``: by which the node knows whether it did so already."""
    return on(agent, "agent.restart", spec=dict(spec(agent)), ports=ports(agent), boot=agent.task)


agent_restart = single("agent", "restart", restart)
