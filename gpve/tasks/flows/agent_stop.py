"""Stop an AI agent: end its processes, which is the commit point; take its sandbox down, and give its claim back.

Its workspace stays where it is.
"""

from gpve.tasks.flow import Flow, Step
from gpve.tasks.flows.agent_start import close_workspace, kill, unconfine
from gpve.tasks.flows.guests import OnGuest, begin, end, leave, only_guest, read

agent_stop = Flow(
    "agent_stop",
    version=1,
    body=OnGuest,
    open=begin("agent", "stop"),
    locks=only_guest,
    read=read,
    close=end("stop"),
    steps=[
        Step("kill", kill, commit=True),
        Step("unconfine", unconfine),
        Step("workspace", close_workspace),
        Step("leave", leave),
    ],
)
