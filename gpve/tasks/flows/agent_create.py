"""Create an AI agent; if it shall run, place it and start it as `agent_start` does. A stopped one is a row, no more."""

from gpve.tasks.flow import Flow, Step
from gpve.tasks.flows.agent_start import close_workspace, confine, kill, open_workspace, start, unconfine
from gpve.tasks.flows.create import Created, autostart, close, locks, open_, place
from gpve.tasks.flows.guests import read, unplace


class AgentCreate(Created):
    """An agent to create."""


agent_create = Flow(
    "agent_create",
    version=1,
    body=AgentCreate,
    open=open_("agent"),
    locks=locks,
    read=read,
    close=close,
    steps=[
        Step("place", place, undo=unplace, waits=True, only_if=autostart),
        Step("workspace", open_workspace, undo=close_workspace, only_if=autostart),
        Step("sandbox", confine, undo=unconfine, only_if=autostart),
        Step("start", start, undo=kill, only_if=autostart),
    ],
)
