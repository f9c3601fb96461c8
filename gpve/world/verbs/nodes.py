"""Verbs of a node as a whole."""

from typing import Any

from gpve.world.hardware import RUNS, Arguments, Hardware, Verb
from gpve.world.verbs.shared import drop, some


def _clean(node: Hardware, a: Arguments) -> bool:
    """Nothing is left of these guests."""
    gone = set(a["guests"])
    node.ha -= gone
    by_guest: tuple[dict[int, Any], ...] = (node.machines, node.sizes, node.boots, node.planes, node.versions)
    by_guest += (node.endpoints, node.workspaces, node.sandboxes, node.ended)
    changed = some(*(drop(things, guest) for things in by_guest for guest in gone))
    for port in [port for port in node.ports if port[0] in gone]:
        changed |= drop(node.ports, port)
    for volume in [volume for volume, guest in node.volumes.items() if guest in gone]:
        changed |= drop(node.volumes, volume)
    for key in [key for key in node.snapshots if int(key.split("/")[0]) in gone]:
        changed |= drop(node.snapshots, key)
    return changed


def what_runs(node: Hardware, a: Arguments) -> dict[str, Any]:
    """Those of ``guests`` that run here or are paused, or will be as soon as the node has its lease."""
    states = {guest: state for kind in RUNS for guest, state in getattr(node, kind).items()}
    return {
        "runs": [guest for guest in a["guests"] if guest in node.ended or states.get(guest) in ("running", "paused")]
    }


VERBS: dict[str, Verb] = {
    "node.clean": _clean,
    "node.look": lambda node, a: False,
}
