"""Verbs of workspaces and sandboxes."""

from gpve.world.hardware import Arguments, Cannot, Hardware, Verb
from gpve.world.verbs.shared import (
    drop,
    drop_snapshots,
    mark,
    plug,
    put,
    put_back,
    some,
    taking,
    turn_of,
    unplug,
    untake,
)


def _open_workspace(node: Hardware, a: Arguments) -> bool:
    return put(node.workspaces, a["guest"], "open")


def _close_workspace(node: Hardware, a: Arguments) -> bool:
    if a["remove"]:
        return drop(node.workspaces, a["guest"])
    return a["guest"] in node.workspaces and put(node.workspaces, a["guest"], "closed")


def _remove_workspace(node: Hardware, a: Arguments) -> bool:
    return some(drop(node.workspaces, a["guest"]), drop_snapshots(node, a))


def _confine(node: Hardware, a: Arguments) -> bool:
    mark(node, a)
    made = plug(node, a)
    return some(made, a["guest"] not in node.sandboxes and put(node.sandboxes, a["guest"], "ready"))


def _unconfine(node: Hardware, a: Arguments) -> bool:
    if node.sandboxes.get(a["guest"], "ready") != "ready":
        raise Cannot("its processes are there")
    node.ha.discard(a["guest"])
    node.boots.pop(a["guest"], None)
    return some(drop(node.sandboxes, a["guest"]), unplug(node, a))


def _start_agent(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.sandboxes:
        raise Cannot("no sandbox")
    return put(node.sandboxes, a["guest"], "running")


def _restart_agent(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.workspaces:
        raise Cannot("no workspace")
    mark(node, a)
    made = [plug(node, a), put(node.sandboxes, a["guest"], "running"), put(node.boots, a["guest"], a["boot"])]
    return any(made)


def _kill(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.sandboxes and put(node.sandboxes, a["guest"], "ready")


VERBS: dict[str, Verb] = {
    "agent.open": _open_workspace,
    "agent.close": _close_workspace,
    "agent.remove": _remove_workspace,
    "agent.confine": _confine,
    "agent.unconfine": _unconfine,
    "agent.start": _start_agent,
    "agent.kill": _kill,
    "agent.restart": _restart_agent,
    "agent.pause": turn_of("sandboxes", ("running",), "paused"),
    "agent.unpause": turn_of("sandboxes", ("paused",), "running", undoes=True),
    "agent.resume": turn_of("sandboxes", ("paused",), "running"),
    "agent.repause": turn_of("sandboxes", ("running",), "paused", undoes=True),
    "agent.checkpoint": taking("workspaces"),
    "agent.uncheckpoint": untake,
    "agent.restore": put_back,
}
