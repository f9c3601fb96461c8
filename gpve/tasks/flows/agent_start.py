"""Start an AI agent: place it, open its workspace, build its sandbox, start its process.

A stopped agent claims nothing; its workspace stays on the node on which it was, and the agent starts there again.
"""

from gpve.tasks.flow import Command, Context, Flow, Step
from gpve.tasks.flows.guests import OnGuest, begin, end, find_place, on, only_guest, ports, read, spec, unplace
from gpve.tasks.ledger import Row, Tx


def place(agent: Context) -> Command:
    """Where its workspace is, or, the first time, wherever it fits."""
    return find_place(agent, "placement", only=agent.facts["guest"]["node"])


def open_workspace(agent: Context) -> Command:
    """Make or mount what it writes to."""
    return on(agent, "agent.open", spec=dict(spec(agent)))


def close_workspace(agent: Context) -> Command:
    """Unmount it; a workspace that this task made is removed."""
    return on(agent, "agent.close", remove=agent.facts["guest"]["node"] is None)


def confine(agent: Context) -> Command:
    """Namespaces, limits, and a port in each network that it is allowed."""
    return on(agent, "agent.confine", spec=dict(spec(agent)), ports=ports(agent))


def unconfine(agent: Context) -> Command:
    """Take the sandbox down, and its ports."""
    return on(agent, "agent.unconfine", ports=ports(agent))


def start(agent: Context) -> Command:
    """Start its process."""
    return on(agent, "agent.start")


def kill(agent: Context) -> Command:
    """End its process, at once."""
    return on(agent, "agent.kill")


def _placed(tx: Tx, agent: Context, row: Row) -> Row:
    return {**row, "node": agent.node}


agent_start = Flow(
    "agent_start",
    version=1,
    body=OnGuest,
    open=begin("agent", "start"),
    locks=only_guest,
    read=read,
    close=end("start", after=_placed),
    steps=[
        Step("place", place, undo=unplace, waits=True),
        Step("workspace", open_workspace, undo=close_workspace),
        Step("sandbox", confine, undo=unconfine),
        Step("start", start, undo=kill),
    ],
)
