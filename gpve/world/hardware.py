"""What is really on a node: volumes, ports, machines, control planes, sandboxes; as verbs bring it about.

A verb brings about a state (`volume.create` of a volume that is there is fine). It says whether it changed anything,
the oracle of "its effect happens once", or raises `Cannot` if the state does not allow it. What undoes another verb
is content if there is nothing to undo.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]
Verb = Callable[["Hardware", Arguments], bool]


class Cannot(Exception):
    """The state of the node does not allow it; nothing was changed."""


@dataclass
class Hardware:
    """Everything on one node. Keys are the platform's ids."""

    volumes: dict[str, int | None] = field(default_factory=dict)
    """Volume: its guest."""
    snapshots: dict[str, str] = field(default_factory=dict)
    """"guest/name": taken, current (what the guest's data was last put back to) or held (for a task)."""
    ports: dict[tuple[int, str], str] = field(default_factory=dict)
    """(guest, network): address."""
    machines: dict[int, str] = field(default_factory=dict)
    """VM: defined, running, paused, incoming."""
    sizes: dict[int, str] = field(default_factory=dict)
    """VM: its cpu_milli/memory_mib."""
    boots: dict[int, int] = field(default_factory=dict)
    """VM or agent: the task that reset it last."""
    planes: dict[int, str] = field(default_factory=dict)
    """vCluster: defined, running, paused, sleeping."""
    versions: dict[int, str] = field(default_factory=dict)
    """vCluster: what its control plane is of."""
    endpoints: dict[int, str] = field(default_factory=dict)
    """vCluster: the name by which it is reached."""
    workspaces: dict[int, str] = field(default_factory=dict)
    """Agent: closed or open."""
    sandboxes: dict[int, str] = field(default_factory=dict)
    """Agent: ready, running or paused."""
    deaf: set[int] = field(default_factory=set)
    """VMs whose system does not hear the power button."""

    ha: set[int] = field(default_factory=set)
    """Guests that may run here only while the node has its lease."""
    ended: dict[int, tuple[str, str]] = field(default_factory=dict)
    """By guest: what ran (kind of thing, state) until the node ended it itself, for want of a lease."""

    def end_ha(self) -> None:
        """End all guests that may not run without a lease."""
        for kind in RUNS:
            things = getattr(self, kind)
            for guest in sorted(self.ha & things.keys()):
                if things[guest] in ("running", "paused"):
                    self.ended[guest] = (kind, things[guest])
                    things[guest] = OFF[kind]

    def restart_ha(self, only: int | None = None) -> list[int]:
        """What was ended (of one guest, or of all) runs again, unless it is gone meanwhile."""
        restarted = []
        for guest in [only] if only is not None else sorted(self.ended):
            kind, state = self.ended.pop(guest, ("machines", ""))
            things = getattr(self, kind)
            if state and things.get(guest) == OFF[kind]:
                things[guest] = state
                restarted.append(guest)
        return restarted

    def power_loss(self) -> None:
        """What does not live on disk is gone."""
        self.machines = {guest: "defined" for guest, state in self.machines.items() if state != "incoming"}
        self.planes = {guest: after_power_loss("planes", state) for guest, state in self.planes.items()}
        self.sandboxes.clear()
        self.ended.clear()

    def snapshot(self) -> dict[str, Any]:
        """All of it, to compare."""
        return {kind: dict(getattr(self, kind)) for kind in THINGS}


RUNS = ("machines", "planes", "sandboxes")
"""Kinds of things that run."""
OFF = {"machines": "defined", "planes": "defined", "sandboxes": "ready"}
"""By kind: its state when it was ended."""
THINGS = (
    "volumes",
    "snapshots",
    "ports",
    "machines",
    "sizes",
    "boots",
    "planes",
    "versions",
    "endpoints",
    "workspaces",
    "sandboxes",
)


def after_power_loss(kind: str, state: Any) -> Any:
    """What a loss of power makes of one thing; None: nothing."""
    if kind == "machines":
        return None if state in (None, "incoming") else "defined"
    if kind == "planes":
        return "defined" if state in ("running", "paused") else state
    return None if kind == "sandboxes" else state
