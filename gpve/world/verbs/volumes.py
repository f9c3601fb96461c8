"""Verbs of volumes and ports."""

from gpve.world.hardware import Arguments, Cannot, Hardware, Verb
from gpve.world.verbs.shared import (
    create_volumes,
    delete_volumes,
    drop_snapshots,
    erase,
    plug,
    put,
    some,
    taking,
    unplug,
    untake,
)


def _attach(node: Hardware, a: Arguments) -> bool:
    if a["volume"] not in node.volumes:
        raise Cannot(f"no volume {a['volume']}")
    return put(node.volumes, a["volume"], a["guest"])


def _detach(node: Hardware, a: Arguments) -> bool:
    return a["volume"] in node.volumes and put(node.volumes, a["volume"], None)


def _map_volumes(node: Hardware, a: Arguments) -> bool:
    """Volumes of a shared pool, with the snapshots that are in them."""
    taken = [taking("")(node, {**a, "name": name}) for name in a["snapshots"]]
    return some(create_volumes(node, a), *taken)


VERBS: dict[str, Verb] = {
    "volume.map": _map_volumes,
    "volume.unmap": lambda node, a: some(delete_volumes(node, a), drop_snapshots(node, a)),
    "volume.create": create_volumes,
    "volume.delete": delete_volumes,
    "volume.erase": erase,
    "volume.attach": _attach,
    "volume.detach": _detach,
    "volume.hold": taking("", "held"),
    "volume.let-go": untake,
    "volume.copy": create_volumes,
    "port.plug": plug,
    "port.unplug": unplug,
}
