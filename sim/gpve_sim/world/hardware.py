"""What is really on a node: volumes, ports, machines, sandboxes; and the verbs that change it.

A verb brings about a state (`volume.create` of a volume that is there is fine); or raises `Cannot`
if the state does not allow it. `effects` counts the changes that were really made, by operation: the oracle of "once".
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


def _create_volumes(node: Hardware, a: Arguments) -> None:
    node.volumes.update({volume["id"]: a["guest"] for volume in a["volumes"]})


def _delete_volumes(node: Hardware, a: Arguments) -> None:
    for volume in a["volumes"]:
        node.volumes.pop(volume["id"], None)


def _plug(node: Hardware, a: Arguments) -> None:
    node.ports.update({(a["guest"], port["network"]): port["mac"] for port in a["ports"]})


def _unplug(node: Hardware, a: Arguments) -> None:
    for port in a["ports"]:
        node.ports.pop((a["guest"], port["network"]), None)


def _define(node: Hardware, a: Arguments) -> None:
    missing = [volume["id"] for volume in a["volumes"] if volume["id"] not in node.volumes]
    if missing:
        raise Cannot(f"no volume {missing[0]}")
    node.machines.setdefault(a["guest"], "defined")


def _undefine(node: Hardware, a: Arguments) -> None:
    if node.machines.get(a["guest"]) == "running":
        raise Cannot("it runs")
    node.machines.pop(a["guest"], None)


def _start(node: Hardware, a: Arguments) -> None:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    node.machines[a["guest"]] = "running"


def _stop(node: Hardware, a: Arguments) -> None:
    if a["guest"] in node.machines:
        node.machines[a["guest"]] = "defined"


def _prepare(node: Hardware, a: Arguments) -> None:
    _create_volumes(node, a)
    _plug(node, a)
    node.machines.setdefault(a["guest"], "incoming")


def _discard(node: Hardware, a: Arguments) -> None:
    node.machines.pop(a["guest"], None)
    _unplug(node, a)
    _delete_volumes(node, a)


def _transfer(node: Hardware, a: Arguments) -> None:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    if node.machines[a["guest"]] == "running":
        node.machines[a["guest"]] = "paused"


def _abort(node: Hardware, a: Arguments) -> None:
    if node.machines.get(a["guest"]) == "paused":
        node.machines[a["guest"]] = "running"


def _switch(node: Hardware, a: Arguments) -> None:
    if a["guest"] not in node.machines:
        raise Cannot("nothing was prepared")
    node.machines[a["guest"]] = "running" if a["running"] else "defined"


def _open_workspace(node: Hardware, a: Arguments) -> None:
    node.workspaces[a["guest"]] = "open"


def _close_workspace(node: Hardware, a: Arguments) -> None:
    if a["remove"]:
        node.workspaces.pop(a["guest"], None)
    elif a["guest"] in node.workspaces:
        node.workspaces[a["guest"]] = "closed"


def _confine(node: Hardware, a: Arguments) -> None:
    node.sandboxes.setdefault(a["guest"], "ready")


def _unconfine(node: Hardware, a: Arguments) -> None:
    node.sandboxes.pop(a["guest"], None)


def _start_agent(node: Hardware, a: Arguments) -> None:
    if a["guest"] not in node.sandboxes:
        raise Cannot("no sandbox")
    node.sandboxes[a["guest"]] = "running"


def _kill(node: Hardware, a: Arguments) -> None:
    if a["guest"] in node.sandboxes:
        node.sandboxes[a["guest"]] = "ready"


VERBS: dict[str, Callable[[Hardware, Arguments], None]] = {
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
