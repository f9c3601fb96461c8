"""Verbs of control planes."""

from gpve.world.hardware import Arguments, Cannot, Hardware, Verb
from gpve.world.verbs.shared import (
    drop,
    mark,
    need_volumes,
    put,
    put_back,
    resizing,
    size,
    some,
    taking,
    turn_of,
    untake,
)


def _define_plane(node: Hardware, a: Arguments) -> bool:
    need_volumes(node, a)
    mark(node, a)
    if a["guest"] in node.planes:
        return False
    version = a["spec"]["version"]
    return some(put(node.planes, a["guest"], "defined"), put(node.versions, a["guest"], version), size(node, a))


def _undefine_plane(node: Hardware, a: Arguments) -> bool:
    if node.planes.get(a["guest"]) in ("running", "paused"):
        raise Cannot("it runs")
    node.ha.discard(a["guest"])
    return some(*(drop(things, a["guest"]) for things in (node.planes, node.versions, node.sizes)))


def _register(node: Hardware, a: Arguments) -> bool:
    return put(node.endpoints, a["guest"], f"vcluster-{a['guest']}")


def _unregister(node: Hardware, a: Arguments) -> bool:
    return drop(node.endpoints, a["guest"])


def _stop_plane(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.planes and put(node.planes, a["guest"], "defined")


def _upgrade(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.versions:
        raise Cannot("no such control plane")
    return put(node.versions, a["guest"], a["version"])


def _downgrade(node: Hardware, a: Arguments) -> bool:
    if node.versions.get(a["guest"]) in (None, a["version"]):
        return False
    if f"{a['guest']}/{a['name']}" not in node.snapshots:
        raise Cannot("no backup")
    return put(node.versions, a["guest"], a["version"])


def _accept(node: Hardware, a: Arguments) -> bool:
    if node.versions.get(a["guest"]) != a["version"]:
        raise Cannot(f"it is of {node.versions.get(a['guest'])}")
    if a["running"] and node.planes.get(a["guest"]) != "running":
        raise Cannot("it does not answer")
    return False


VERBS: dict[str, Verb] = {
    "vcluster.define": _define_plane,
    "vcluster.undefine": _undefine_plane,
    "vcluster.register": _register,
    "vcluster.unregister": _unregister,
    "vcluster.start": turn_of("planes", ("defined",), "running"),
    "vcluster.stop": _stop_plane,
    "vcluster.pause": turn_of("planes", ("running",), "paused"),
    "vcluster.unpause": turn_of("planes", ("paused",), "running", undoes=True),
    "vcluster.resume": turn_of("planes", ("paused",), "running"),
    "vcluster.repause": turn_of("planes", ("running",), "paused", undoes=True),
    "vcluster.sleep": turn_of("planes", ("running",), "sleeping"),
    "vcluster.unsleep": turn_of("planes", ("sleeping",), "running", undoes=True),
    "vcluster.wake": turn_of("planes", ("sleeping",), "running"),
    "vcluster.unwake": turn_of("planes", ("running", "defined"), "sleeping", undoes=True),
    "vcluster.resize": resizing("planes"),
    "vcluster.upgrade": _upgrade,
    "vcluster.downgrade": _downgrade,
    "vcluster.accept": _accept,
    "vcluster.snapshot": taking("planes"),
    "vcluster.unsnapshot": untake,
    "vcluster.restore": put_back,
}
