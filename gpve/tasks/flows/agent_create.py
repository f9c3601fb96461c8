"""Create an AI agent; if it shall run, place it and start it as `agent_start` does. A stopped one is a row, no more."""

from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, Field

from gpve.tasks.flow import Flow, Step
from gpve.tasks.flows.agent_program import Program
from gpve.tasks.flows.agent_start import close_workspace, confine, kill, open_workspace, start, unconfine
from gpve.tasks.flows.create import Created, Ranked, autostart, close, locks, open_, place
from gpve.tasks.flows.guests import read, unplace


class AgentCreate(Ranked):
    """An agent to create."""

    program: Program | None = Field(
        default=None, description="What it runs; a node that runs agents for real refuses one without."
    )

    def made_of(self) -> dict[str, Any]:
        """Its spec."""
        program = None if self.program is None else self.program.model_dump(mode="json", exclude_defaults=True)
        return super().made_of() | {"program": program}


class AgentCreateFirst(Created):
    """An agent to create."""

    model_config = ConfigDict(title="AgentCreate")


agent_create = Flow(
    "agent_create",
    version=2,
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
agent_create_first = replace(agent_create, version=1, body=AgentCreateFirst)
"""As it was before agents had programs: tasks of it may be in somebody's store."""
