"""What is really on a node: volumes, ports, machines, control planes, sandboxes; and the verbs that change it.

A verb brings about a state (`volume.create` of a volume that is there is fine). It says whether it changed anything,
the oracle of "its effect happens once", or raises `Cannot` if the state does not allow it. What undoes another verb
is content if there is nothing to undo.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
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


def _some(*changes: bool) -> bool:
    """Whether any of them changed anything; all were made."""
    return any(changes)


def _set(things: dict[Any, Any], key: Any, value: Any) -> bool:
    changed = key not in things or things[key] != value
    things[key] = value
    return changed


def _drop(things: dict[Any, Any], key: Any) -> bool:
    there = key in things
    things.pop(key, None)
    return there


def _turn(kind: str, before: tuple[str, ...], after: str, *, undoes: bool = False) -> Verb:
    """A verb that turns one state into another. As an undo it leaves other states alone."""

    def turn(node: Hardware, a: Arguments) -> bool:
        things = getattr(node, kind)
        state = things.get(a["guest"])
        if state != after and state not in before:
            if undoes:
                return False
            raise Cannot(f"guest {a['guest']} is {state or 'not there'}, not {' or '.join(before)}")
        return _set(things, a["guest"], after)

    return turn


def _create_volumes(node: Hardware, a: Arguments) -> bool:
    return _some(*(_set(node.volumes, volume["id"], a["guest"]) for volume in a["volumes"]))


def _delete_volumes(node: Hardware, a: Arguments) -> bool:
    return _some(*(_drop(node.volumes, volume["id"]) for volume in a["volumes"]))


def _drop_snapshots(node: Hardware, a: Arguments) -> bool:
    mine = [key for key in node.snapshots if key.startswith(f"{a['guest']}/")]
    return _some(*(_drop(node.snapshots, key) for key in mine))


def _erase(node: Hardware, a: Arguments) -> bool:
    return _some(_delete_volumes(node, a), _drop_snapshots(node, a))


def _attach(node: Hardware, a: Arguments) -> bool:
    if a["volume"] not in node.volumes:
        raise Cannot(f"no volume {a['volume']}")
    return _set(node.volumes, a["volume"], a["guest"])


def _detach(node: Hardware, a: Arguments) -> bool:
    return a["volume"] in node.volumes and _set(node.volumes, a["volume"], None)


def _take(kind: str, state: str = "taken") -> Verb:
    """A verb that takes a snapshot of a guest that is there as ``kind``."""

    def take(node: Hardware, a: Arguments) -> bool:
        if kind and a["guest"] not in getattr(node, kind):
            raise Cannot(f"guest {a['guest']} is not there")
        return _set(node.snapshots, f"{a['guest']}/{a['name']}", state)

    return take


def _untake(node: Hardware, a: Arguments) -> bool:
    return _drop(node.snapshots, f"{a['guest']}/{a['name']}")


def _put_back(node: Hardware, a: Arguments) -> bool:
    key = f"{a['guest']}/{a['name']}"
    if key not in node.snapshots:
        raise Cannot(f"no snapshot {a['name']}")
    for other, state in node.snapshots.items():
        if other.startswith(f"{a['guest']}/") and other != key and state == "current":
            node.snapshots[other] = "taken"
    return _set(node.snapshots, key, "current")


def _plug(node: Hardware, a: Arguments) -> bool:
    return _some(*(_set(node.ports, (a["guest"], port["network"]), port["mac"]) for port in a["ports"]))


def _unplug(node: Hardware, a: Arguments) -> bool:
    return _some(*(_drop(node.ports, (a["guest"], port["network"])) for port in a["ports"]))


def _size(node: Hardware, a: Arguments) -> bool:
    spec = a["spec"]
    return _set(node.sizes, a["guest"], f"{spec['cpu_milli']}/{spec['memory_mib']}")


def _mark(node: Hardware, a: Arguments) -> None:
    """Remember whether the guest needs a lease."""
    if a["spec"].get("ha"):
        node.ha.add(a["guest"])


def _define(node: Hardware, a: Arguments) -> bool:
    _need_volumes(node, a)
    _mark(node, a)
    return a["guest"] not in node.machines and _some(_set(node.machines, a["guest"], "defined"), _size(node, a))


def _need_volumes(node: Hardware, a: Arguments) -> None:
    missing = [volume["id"] for volume in a["volumes"] if volume["id"] not in node.volumes]
    if missing:
        raise Cannot(f"no volume {missing[0]}")


def _undefine(node: Hardware, a: Arguments) -> bool:
    if node.machines.get(a["guest"]) in ("running", "paused"):
        raise Cannot("it runs")
    return _forget(node, a)


def _forget(node: Hardware, a: Arguments) -> bool:
    node.ha.discard(a["guest"])
    return _some(*(_drop(things, a["guest"]) for things in (node.machines, node.sizes, node.boots)))


def _start(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return _set(node.machines, a["guest"], "running")


def _stop(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.machines and _set(node.machines, a["guest"], "defined")


def _shutdown(node: Hardware, a: Arguments) -> bool:
    if node.machines.get(a["guest"]) == "running" and a["guest"] in node.deaf:
        raise Cannot(f"its system did not end within {a['within_s']} s; vm_stop powers it off")
    return _turn("machines", ("running",), "defined")(node, a)


def _reboot(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return _some(_set(node.machines, a["guest"], "running"), _set(node.boots, a["guest"], a["boot"]))


def _resize(things: str, node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in getattr(node, things):
        raise Cannot("there is no such guest")
    return _size(node, a)


def _prepare(node: Hardware, a: Arguments) -> bool:
    _mark(node, a)
    made = [_create_volumes(node, a), _plug(node, a)]
    made += [_take("")(node, {**a, "name": name}) for name in a["spec"].get("snapshots", ())]
    made.append(a["guest"] not in node.machines and _set(node.machines, a["guest"], "incoming"))
    return any([*made, _size(node, a)])


def _discard(node: Hardware, a: Arguments) -> bool:
    return _some(_forget(node, a), _unplug(node, a), _erase(node, a))


def _transfer(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return node.machines[a["guest"]] == "running" and _set(node.machines, a["guest"], "paused")


def _switch(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("nothing was prepared")
    return _set(node.machines, a["guest"], "running" if a["running"] else "defined")


def _define_plane(node: Hardware, a: Arguments) -> bool:
    _need_volumes(node, a)
    _mark(node, a)
    if a["guest"] in node.planes:
        return False
    version = a["spec"]["version"]
    return _some(_set(node.planes, a["guest"], "defined"), _set(node.versions, a["guest"], version), _size(node, a))


def _undefine_plane(node: Hardware, a: Arguments) -> bool:
    if node.planes.get(a["guest"]) in ("running", "paused"):
        raise Cannot("it runs")
    node.ha.discard(a["guest"])
    return _some(*(_drop(things, a["guest"]) for things in (node.planes, node.versions, node.sizes)))


def _register(node: Hardware, a: Arguments) -> bool:
    return _set(node.endpoints, a["guest"], f"vcluster-{a['guest']}")


def _unregister(node: Hardware, a: Arguments) -> bool:
    return _drop(node.endpoints, a["guest"])


def _stop_plane(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.planes and _set(node.planes, a["guest"], "defined")


def _upgrade(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.versions:
        raise Cannot("no such control plane")
    return _set(node.versions, a["guest"], a["version"])


def _downgrade(node: Hardware, a: Arguments) -> bool:
    if node.versions.get(a["guest"]) in (None, a["version"]):
        return False
    if f"{a['guest']}/{a['name']}" not in node.snapshots:
        raise Cannot("no backup")
    return _set(node.versions, a["guest"], a["version"])


def _accept(node: Hardware, a: Arguments) -> bool:
    if node.versions.get(a["guest"]) != a["version"]:
        raise Cannot(f"it is of {node.versions.get(a['guest'])}")
    if a["running"] and node.planes.get(a["guest"]) != "running":
        raise Cannot("it does not answer")
    return False


def _open_workspace(node: Hardware, a: Arguments) -> bool:
    return _set(node.workspaces, a["guest"], "open")


def _close_workspace(node: Hardware, a: Arguments) -> bool:
    if a["remove"]:
        return _drop(node.workspaces, a["guest"])
    return a["guest"] in node.workspaces and _set(node.workspaces, a["guest"], "closed")


def _remove_workspace(node: Hardware, a: Arguments) -> bool:
    return _some(_drop(node.workspaces, a["guest"]), _drop_snapshots(node, a))


def _confine(node: Hardware, a: Arguments) -> bool:
    _mark(node, a)
    made = _plug(node, a)
    return _some(made, a["guest"] not in node.sandboxes and _set(node.sandboxes, a["guest"], "ready"))


def _unconfine(node: Hardware, a: Arguments) -> bool:
    if node.sandboxes.get(a["guest"], "ready") != "ready":
        raise Cannot("its processes are there")
    node.ha.discard(a["guest"])
    node.boots.pop(a["guest"], None)
    return _some(_drop(node.sandboxes, a["guest"]), _unplug(node, a))


def _start_agent(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.sandboxes:
        raise Cannot("no sandbox")
    return _set(node.sandboxes, a["guest"], "running")


def _restart_agent(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.workspaces:
        raise Cannot("no workspace")
    _mark(node, a)
    made = [_plug(node, a), _set(node.sandboxes, a["guest"], "running"), _set(node.boots, a["guest"], a["boot"])]
    return any(made)


def _kill(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.sandboxes and _set(node.sandboxes, a["guest"], "ready")


def _map_volumes(node: Hardware, a: Arguments) -> bool:
    """Volumes of a shared pool, with the snapshots that are in them."""
    taken = [_take("")(node, {**a, "name": name}) for name in a["snapshots"]]
    return _some(_create_volumes(node, a), *taken)


def _clean(node: Hardware, a: Arguments) -> bool:
    """Nothing is left of these guests."""
    gone = set(a["guests"])
    node.ha -= gone
    by_guest: tuple[dict[int, Any], ...] = (node.machines, node.sizes, node.boots, node.planes, node.versions)
    by_guest += (node.endpoints, node.workspaces, node.sandboxes, node.ended)
    changed = _some(*(_drop(things, guest) for things in by_guest for guest in gone))
    for port in [port for port in node.ports if port[0] in gone]:
        changed |= _drop(node.ports, port)
    for volume in [volume for volume, guest in node.volumes.items() if guest in gone]:
        changed |= _drop(node.volumes, volume)
    for key in [key for key in node.snapshots if int(key.split("/")[0]) in gone]:
        changed |= _drop(node.snapshots, key)
    return changed


def what_runs(node: Hardware, a: Arguments) -> dict[str, Any]:
    """Those of ``guests`` that run here or are paused, or will be as soon as the node has its lease."""
    states = {guest: state for kind in RUNS for guest, state in getattr(node, kind).items()}
    return {
        "runs": [guest for guest in a["guests"] if guest in node.ended or states.get(guest) in ("running", "paused")]
    }


RESULTS: dict[str, Callable[[Hardware, Arguments], dict[str, Any]]] = defaultdict(lambda: lambda node, a: {})
"""By verb, what it answers."""
RESULTS["node.look"] = what_runs

VERBS: dict[str, Verb] = {
    "node.clean": _clean,
    "node.look": lambda node, a: False,
    "volume.map": _map_volumes,
    "volume.unmap": lambda node, a: _some(_delete_volumes(node, a), _drop_snapshots(node, a)),
    "volume.create": _create_volumes,
    "volume.delete": _delete_volumes,
    "volume.erase": _erase,
    "volume.attach": _attach,
    "volume.detach": _detach,
    "volume.hold": _take("", "held"),
    "volume.let-go": _untake,
    "volume.copy": _create_volumes,
    "port.plug": _plug,
    "port.unplug": _unplug,
    "vm.define": _define,
    "vm.undefine": _undefine,
    "vm.start": _start,
    "vm.stop": _stop,
    "vm.shutdown": _shutdown,
    "vm.reboot": _reboot,
    "vm.pause": _turn("machines", ("running",), "paused"),
    "vm.unpause": _turn("machines", ("paused",), "running", undoes=True),
    "vm.resume": _turn("machines", ("paused",), "running"),
    "vm.repause": _turn("machines", ("running",), "paused", undoes=True),
    "vm.snapshot": _take("machines"),
    "vm.unsnapshot": _untake,
    "vm.rollback": _put_back,
    "vm.resize": partial(_resize, "machines"),
    "vm.prepare": _prepare,
    "vm.discard": _discard,
    "vm.transfer": _transfer,
    "vm.abort": _turn("machines", ("paused",), "running", undoes=True),
    "vm.switch": _switch,
    "vm.clean": _discard,
    "vcluster.define": _define_plane,
    "vcluster.undefine": _undefine_plane,
    "vcluster.register": _register,
    "vcluster.unregister": _unregister,
    "vcluster.start": _turn("planes", ("defined",), "running"),
    "vcluster.stop": _stop_plane,
    "vcluster.pause": _turn("planes", ("running",), "paused"),
    "vcluster.unpause": _turn("planes", ("paused",), "running", undoes=True),
    "vcluster.resume": _turn("planes", ("paused",), "running"),
    "vcluster.repause": _turn("planes", ("running",), "paused", undoes=True),
    "vcluster.sleep": _turn("planes", ("running",), "sleeping"),
    "vcluster.unsleep": _turn("planes", ("sleeping",), "running", undoes=True),
    "vcluster.wake": _turn("planes", ("sleeping",), "running"),
    "vcluster.unwake": _turn("planes", ("running", "defined"), "sleeping", undoes=True),
    "vcluster.resize": partial(_resize, "planes"),
    "vcluster.upgrade": _upgrade,
    "vcluster.downgrade": _downgrade,
    "vcluster.accept": _accept,
    "vcluster.snapshot": _take("planes"),
    "vcluster.unsnapshot": _untake,
    "vcluster.restore": _put_back,
    "agent.open": _open_workspace,
    "agent.close": _close_workspace,
    "agent.remove": _remove_workspace,
    "agent.confine": _confine,
    "agent.unconfine": _unconfine,
    "agent.start": _start_agent,
    "agent.kill": _kill,
    "agent.restart": _restart_agent,
    "agent.pause": _turn("sandboxes", ("running",), "paused"),
    "agent.unpause": _turn("sandboxes", ("paused",), "running", undoes=True),
    "agent.resume": _turn("sandboxes", ("paused",), "running"),
    "agent.repause": _turn("sandboxes", ("running",), "paused", undoes=True),
    "agent.checkpoint": _take("workspaces"),
    "agent.uncheckpoint": _untake,
    "agent.restore": _put_back,
}
"""By name, what the flows ask of a node."""
