"""Take a checkpoint of an agent: its workspace, at one moment, where it is."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single
from gpve.tasks.flows.snapshots import Snapshot, fresh, noted


def checkpoint(agent: Context) -> Command:
    """Take it."""
    return on(agent, "agent.checkpoint", name=agent.body.name)


def uncheckpoint(agent: Context) -> Command:
    """Drop it."""
    return on(agent, "agent.uncheckpoint", name=agent.body.name)


agent_checkpoint = single("agent", "checkpoint", checkpoint, undo=uncheckpoint, body=Snapshot, check=fresh, after=noted)
