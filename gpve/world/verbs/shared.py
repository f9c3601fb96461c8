"""What the verbs of several kinds of things are made of."""

from typing import Any

from gpve.world.hardware import Arguments, Cannot, Hardware, Verb


def some(*changes: bool) -> bool:
    """Whether any of them changed anything; all were made."""
    return any(changes)


def put(things: dict[Any, Any], key: Any, value: Any) -> bool:
    """Write a value; whether that changed anything."""
    changed = key not in things or things[key] != value
    things[key] = value
    return changed


def drop(things: dict[Any, Any], key: Any) -> bool:
    """Remove a key; whether it was there."""
    there = key in things
    things.pop(key, None)
    return there


def turn_of(kind: str, before: tuple[str, ...], after: str, *, undoes: bool = False) -> Verb:
    """A verb that turns one state into another. As an undo it leaves other states alone."""

    def turn(node: Hardware, a: Arguments) -> bool:
        things = getattr(node, kind)
        state = things.get(a["guest"])
        if state != after and state not in before:
            if undoes:
                return False
            raise Cannot(f"guest {a['guest']} is {state or 'not there'}, not {' or '.join(before)}")
        return put(things, a["guest"], after)

    return turn


def taking(kind: str, state: str = "taken") -> Verb:
    """A verb that takes a snapshot of a guest that is there as ``kind``."""

    def take(node: Hardware, a: Arguments) -> bool:
        if kind and a["guest"] not in getattr(node, kind):
            raise Cannot(f"guest {a['guest']} is not there")
        return put(node.snapshots, f"{a['guest']}/{a['name']}", state)

    return take


def untake(node: Hardware, a: Arguments) -> bool:
    """Remove a snapshot."""
    return drop(node.snapshots, f"{a['guest']}/{a['name']}")


def put_back(node: Hardware, a: Arguments) -> bool:
    """Put the guest's data back to a snapshot."""
    key = f"{a['guest']}/{a['name']}"
    if key not in node.snapshots:
        raise Cannot(f"no snapshot {a['name']}")
    for other, state in node.snapshots.items():
        if other.startswith(f"{a['guest']}/") and other != key and state == "current":
            node.snapshots[other] = "taken"
    return put(node.snapshots, key, "current")


def plug(node: Hardware, a: Arguments) -> bool:
    """Give a guest its ports."""
    return some(*(put(node.ports, (a["guest"], port["network"]), port["mac"]) for port in a["ports"]))


def unplug(node: Hardware, a: Arguments) -> bool:
    """Take its ports away."""
    return some(*(drop(node.ports, (a["guest"], port["network"])) for port in a["ports"]))


def size(node: Hardware, a: Arguments) -> bool:
    """Give a guest the size that its specification says."""
    spec = a["spec"]
    return put(node.sizes, a["guest"], f"{spec['cpu_milli']}/{spec['memory_mib']}")


def resizing(things: str) -> Verb:
    """A verb that gives a guest that is there as ``things`` another size."""

    def resize(node: Hardware, a: Arguments) -> bool:
        if a["guest"] not in getattr(node, things):
            raise Cannot("there is no such guest")
        return size(node, a)

    return resize


def mark(node: Hardware, a: Arguments) -> None:
    """Remember whether the guest needs a lease."""
    if a["spec"].get("ha"):
        node.ha.add(a["guest"])


def need_volumes(node: Hardware, a: Arguments) -> None:
    """Refuse if a volume is missing."""
    missing = [volume["id"] for volume in a["volumes"] if volume["id"] not in node.volumes]
    if missing:
        raise Cannot(f"no volume {missing[0]}")


def create_volumes(node: Hardware, a: Arguments) -> bool:
    """Make a guest's volumes."""
    return some(*(put(node.volumes, volume["id"], a["guest"]) for volume in a["volumes"]))


def delete_volumes(node: Hardware, a: Arguments) -> bool:
    """Remove a guest's volumes."""
    return some(*(drop(node.volumes, volume["id"]) for volume in a["volumes"]))


def drop_snapshots(node: Hardware, a: Arguments) -> bool:
    """Remove all snapshots of a guest."""
    mine = [key for key in node.snapshots if key.startswith(f"{a['guest']}/")]
    return some(*(drop(node.snapshots, key) for key in mine))


def erase(node: Hardware, a: Arguments) -> bool:
    """Remove a guest's volumes and snapshots."""
    return some(delete_volumes(node, a), drop_snapshots(node, a))
