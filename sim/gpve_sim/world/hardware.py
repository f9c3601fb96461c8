"""What is really on a node: volumes, ports, machines, sandboxes; and the verbs that change it.

A verb brings about a state (`volume.create` of a volume that is there is fine). It says whether it changed anything, the
oracle of "its effect happens once", or raises `Cannot` if the state does not allow it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]


class Cannot(Exception):
    """The state of the node does not allow it; nothing was changed."""


@dataclass
class Hardware:
    """Everything on one node. Keys are the platform's ids."""

    volumes: dict[str, int] = field(default_factory=dict)
    """Volume: its guest."""
    ports: dict[tuple[int, str], str] = field(default_factory=dict)
    """(guest, network): address."""
    machines: dict[int, str] = field(default_factory=dict)
    """VM: defined, running, paused, incoming."""
    workspaces: dict[int, str] = field(default_factory=dict)
    """Agent: closed or open."""
    sandboxes: dict[int, str] = field(default_factory=dict)
    """Agent: ready or running."""

    def power_loss(self) -> None:
        """What does not live on disk is gone."""
        self.machines = {guest: "defined" for guest, state in self.machines.items() if state != "incoming"}
        self.sandboxes.clear()

    def snapshot(self) -> dict[str, Any]:
        """All of it, to compare."""
        return {
            "volumes": dict(self.volumes),
            "ports": dict(self.ports),
            "machines": dict(self.machines),
            "workspaces": dict(self.workspaces),
            "sandboxes": dict(self.sandboxes),
        }


def _set(things: dict[Any, Any], key: Any, value: Any) -> bool:
    changed = key not in things or things[key] != value
    things[key] = value
    return changed


def _drop(things: dict[Any, Any], key: Any) -> bool:
    return things.pop(key, None) is not None


def _create_volumes(node: Hardware, a: Arguments) -> bool:
    return any([_set(node.volumes, volume["id"], a["guest"]) for volume in a["volumes"]])  # noqa: C419 (all of them, not up to the first)


def _delete_volumes(node: Hardware, a: Arguments) -> bool:
    return any([_drop(node.volumes, volume["id"]) for volume in a["volumes"]])  # noqa: C419 (all of them, not up to the first)


def _plug(node: Hardware, a: Arguments) -> bool:
    return any([_set(node.ports, (a["guest"], port["network"]), port["mac"]) for port in a["ports"]])  # noqa: C419 (all of them, not up to the first)


def _unplug(node: Hardware, a: Arguments) -> bool:
    return any([_drop(node.ports, (a["guest"], port["network"])) for port in a["ports"]])  # noqa: C419 (all of them, not up to the first)


def _define(node: Hardware, a: Arguments) -> bool:
    missing = [volume["id"] for volume in a["volumes"] if volume["id"] not in node.volumes]
    if missing:
        raise Cannot(f"no volume {missing[0]}")
    return a["guest"] not in node.machines and _set(node.machines, a["guest"], "defined")


def _undefine(node: Hardware, a: Arguments) -> bool:
    if node.machines.get(a["guest"]) == "running":
        raise Cannot("it runs")
    return _drop(node.machines, a["guest"])


def _start(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return _set(node.machines, a["guest"], "running")


def _stop(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.machines and _set(node.machines, a["guest"], "defined")


def _prepare(node: Hardware, a: Arguments) -> bool:
    made = [_create_volumes(node, a), _plug(node, a)]
    made.append(a["guest"] not in node.machines and _set(node.machines, a["guest"], "incoming"))
    return any(made)


def _discard(node: Hardware, a: Arguments) -> bool:
    return any([_drop(node.machines, a["guest"]), _unplug(node, a), _delete_volumes(node, a)])  # noqa: C419 (all of them, not up to the first)


def _transfer(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return node.machines[a["guest"]] == "running" and _set(node.machines, a["guest"], "paused")


def _abort(node: Hardware, a: Arguments) -> bool:
    return node.machines.get(a["guest"]) == "paused" and _set(node.machines, a["guest"], "running")


def _switch(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("nothing was prepared")
    return _set(node.machines, a["guest"], "running" if a["running"] else "defined")


def _open_workspace(node: Hardware, a: Arguments) -> bool:
    return _set(node.workspaces, a["guest"], "open")


def _close_workspace(node: Hardware, a: Arguments) -> bool:
    if a["remove"]:
        return _drop(node.workspaces, a["guest"])
    return a["guest"] in node.workspaces and _set(node.workspaces, a["guest"], "closed")


def _confine(node: Hardware, a: Arguments) -> bool:
    return a["guest"] not in node.sandboxes and _set(node.sandboxes, a["guest"], "ready")


def _unconfine(node: Hardware, a: Arguments) -> bool:
    return _drop(node.sandboxes, a["guest"])


def _start_agent(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.sandboxes:
        raise Cannot("no sandbox")
    return _set(node.sandboxes, a["guest"], "running")


def _kill(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.sandboxes and _set(node.sandboxes, a["guest"], "ready")


VERBS: dict[str, Callable[[Hardware, Arguments], bool]] = {
    "volume.create": _create_volumes,
    "volume.delete": _delete_volumes,
    "port.plug": _plug,
    "port.unplug": _unplug,
    "vm.define": _define,
    "vm.undefine": _undefine,
    "vm.start": _start,
    "vm.stop": _stop,
    "vm.prepare": _prepare,
    "vm.discard": _discard,
    "vm.transfer": _transfer,
    "vm.abort": _abort,
    "vm.switch": _switch,
    "vm.clean": _discard,
    "agent.open": _open_workspace,
    "agent.close": _close_workspace,
    "agent.confine": _confine,
    "agent.unconfine": _unconfine,
    "agent.start": _start_agent,
    "agent.kill": _kill,
}
"""By name, what the flows ask of a node."""
