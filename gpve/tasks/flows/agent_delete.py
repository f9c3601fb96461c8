"""Delete an AI agent with its workspace and checkpoints, where it has them: the commit point."""

from gpve.tasks.flow import Command, Context, Flow, Step
from gpve.tasks.flows.guests import OnGuest, begin, end, on, only_guest, read


def remove(agent: Context) -> Command:
    """Its workspace, with all checkpoints."""
    return on(agent, "agent.remove")


def _ever_ran(agent: Context) -> bool:
    return agent.facts["guest"]["node"] is not None


agent_delete = Flow(
    "agent_delete",
    version=1,
    body=OnGuest,
    open=begin("agent", "delete"),
    locks=only_guest,
    read=read,
    close=end("delete"),
    steps=[Step("remove", remove, commit=True, only_if=_ever_ran)],
)
