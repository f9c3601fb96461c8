"""Put an agent's workspace back to a checkpoint. What was written since is lost: the commit point."""

from gpve.tasks.flow import Command, Context
from gpve.tasks.flows.guests import on
from gpve.tasks.flows.single import single
from gpve.tasks.flows.snapshots import Snapshot, known


def restore(agent: Context) -> Command:
    """Put it back."""
    return on(agent, "agent.restore", name=agent.body.name)


agent_restore = single("agent", "restore", restore, body=Snapshot, check=known)
