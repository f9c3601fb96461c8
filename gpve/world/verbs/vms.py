"""Verbs of machines."""

from gpve.world.hardware import Arguments, Cannot, Hardware, Verb
from gpve.world.verbs.shared import (
    create_volumes,
    drop,
    erase,
    mark,
    need_volumes,
    plug,
    put,
    put_back,
    resizing,
    size,
    some,
    taking,
    turn_of,
    unplug,
    untake,
)


def _define(node: Hardware, a: Arguments) -> bool:
    need_volumes(node, a)
    mark(node, a)
    return a["guest"] not in node.machines and some(put(node.machines, a["guest"], "defined"), size(node, a))


def _undefine(node: Hardware, a: Arguments) -> bool:
    if node.machines.get(a["guest"]) in ("running", "paused"):
        raise Cannot("it runs")
    return _forget(node, a)


def _forget(node: Hardware, a: Arguments) -> bool:
    node.ha.discard(a["guest"])
    return some(*(drop(things, a["guest"]) for things in (node.machines, node.sizes, node.boots)))


def _start(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return put(node.machines, a["guest"], "running")


def _stop(node: Hardware, a: Arguments) -> bool:
    return a["guest"] in node.machines and put(node.machines, a["guest"], "defined")


def _shutdown(node: Hardware, a: Arguments) -> bool:
    if node.machines.get(a["guest"]) == "running" and a["guest"] in node.deaf:
        raise Cannot(f"its system did not end within {a['within_s']} s; vm_stop powers it off")
    return turn_of("machines", ("running",), "defined")(node, a)


def _reboot(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return some(put(node.machines, a["guest"], "running"), put(node.boots, a["guest"], a["boot"]))


def _prepare(node: Hardware, a: Arguments) -> bool:
    mark(node, a)
    made = [create_volumes(node, a), plug(node, a)]
    made += [taking("")(node, {**a, "name": name}) for name in a["spec"].get("snapshots", ())]
    made.append(a["guest"] not in node.machines and put(node.machines, a["guest"], "incoming"))
    return any([*made, size(node, a)])


def _discard(node: Hardware, a: Arguments) -> bool:
    return some(_forget(node, a), unplug(node, a), erase(node, a))


def _transfer(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("no such machine")
    return node.machines[a["guest"]] == "running" and put(node.machines, a["guest"], "paused")


def _switch(node: Hardware, a: Arguments) -> bool:
    if a["guest"] not in node.machines:
        raise Cannot("nothing was prepared")
    return put(node.machines, a["guest"], "running" if a["running"] else "defined")


VERBS: dict[str, Verb] = {
    "vm.define": _define,
    "vm.undefine": _undefine,
    "vm.start": _start,
    "vm.stop": _stop,
    "vm.shutdown": _shutdown,
    "vm.reboot": _reboot,
    "vm.pause": turn_of("machines", ("running",), "paused"),
    "vm.unpause": turn_of("machines", ("paused",), "running", undoes=True),
    "vm.resume": turn_of("machines", ("paused",), "running"),
    "vm.repause": turn_of("machines", ("running",), "paused", undoes=True),
    "vm.snapshot": taking("machines"),
    "vm.unsnapshot": untake,
    "vm.rollback": put_back,
    "vm.resize": resizing("machines"),
    "vm.prepare": _prepare,
    "vm.discard": _discard,
    "vm.transfer": _transfer,
    "vm.abort": turn_of("machines", ("paused",), "running", undoes=True),
    "vm.switch": _switch,
    "vm.clean": _discard,
}
