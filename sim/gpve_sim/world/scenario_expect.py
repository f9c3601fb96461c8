"""What a script may expect. Each function says why it does not hold, or None."""

from collections.abc import Iterator
from typing import Any

from gpve.tasks.audit import audit
from gpve.tasks.ledger import Row
from gpve.world.hardware import RUNS, after_power_loss
from gpve_sim.world.scenario_phrases import phrase
from gpve_sim.world.scenario_stage import Stage

_LIVES_IN = {"vm": "machines", "vcluster": "planes", "agent": "sandboxes"}
_ON_NODE: dict[str, dict[str, str | None]] = {
    "vm": {"stopped": "defined"},
    "vcluster": {"stopped": "defined"},
    "agent": {"stopped": None},
}
"""By kind and phase: what it is on its node, where that has another name."""


@phrase("expect task N STATUS")
def _task(stage: Stage, task: int, status: str) -> str | None:
    rows = stage.store.rows("task", id=task)
    if not rows:
        return f"there is no task {task}"
    is_now = "unreadable" if rows[0]["poison"] else rows[0]["status"]
    return None if is_now == status else f"it is {is_now}"


@phrase("expect N tasks")
def _tasks(stage: Stage, count: int) -> str | None:
    there = len(stage.store.rows("task"))
    return None if there == count else f"there are {there}"


@phrase("expect guest N gone")
def _gone(stage: Stage, guest: int) -> str | None:
    rows = stage.store.rows("guest", id=guest)
    if rows:
        return f"it is {rows[0]['phase']}"
    left = [f"{thing} on {node}" for node in stage.nodes.by_name for thing in _things(stage, node, guest)]
    return ", ".join(left) or None


@phrase("expect guest N PHASE on NODE once")
def _once(stage: Stage, guest: int, phase: str, node: str) -> str | None:
    wrong = _there(stage, guest, phase, node)
    if wrong is not None:
        return wrong
    kind = stage.store.rows("guest", id=guest)[0]["kind"]
    state = _ON_NODE[kind].get(phase, phase)
    return _is_on(stage, guest, kind, [] if state is None else [(node, state)])


@phrase("expect guest N PHASE on NODE without power")
def _without_power(stage: Stage, guest: int, phase: str, node: str) -> str | None:
    """As the store says, but for the power that its node lost."""
    wrong = _there(stage, guest, phase, node)
    if wrong is not None:
        return wrong
    kind = stage.store.rows("guest", id=guest)[0]["kind"]
    state = after_power_loss(_LIVES_IN[kind], phase)
    return _is_on(stage, guest, kind, [] if state is None else [(node, state)])


@phrase("expect guest N PHASE")
def _phase(stage: Stage, guest: int, phase: str) -> str | None:
    return _there(stage, guest, phase, None)


def _there(stage: Stage, guest: int, phase: str, node: str | None) -> str | None:
    rows = stage.store.rows("guest", id=guest)
    if not rows:
        return "it is gone"
    row = rows[0]
    if row["phase"] != phase or node not in (None, row["node"]):
        return f"it is {row['phase']} on {row['node']}"
    return None


def _is_on(stage: Stage, guest: int, kind: str, wanted: list[tuple[str, str]]) -> str | None:
    found = []
    for name, node in stage.nodes.by_name.items():
        state = getattr(node.hardware, _LIVES_IN[kind]).get(guest)
        if state is not None:
            found.append((name, state))
    if found == wanted:
        return None
    return "it is " + (" and ".join(f"{state} on {name}" for name, state in found) or "on no node")


@phrase("expect node NODE holds nothing of N")
def _nothing_of(stage: Stage, node: str, guest: int) -> str | None:
    return ", ".join(_things(stage, node, guest)) or None


@phrase("expect node NODE holds nothing")
def _nothing(stage: Stage, node: str) -> str | None:
    return ", ".join(_things(stage, node, None)) or None


def _things(stage: Stage, node: str, guest: int | None) -> Iterator[str]:
    for kind, things in stage.nodes.by_name[node].hardware.snapshot().items():
        for key, value in things.items():
            if guest is None or _is_of(guest, key, value):
                yield f"{kind} {key}"


def _is_of(guest: int, key: Any, value: Any) -> bool:
    if isinstance(key, tuple):
        return bool(key[0] == guest)
    return key == guest or value == guest or str(key).startswith((f"{guest}/", f"{guest}-"))


@phrase("expect node NODE claims N")
def _claims(stage: Stage, node: str, cpu_milli: int) -> str | None:
    used = stage.store.rows("node", name=node)[0]["used_cpu_milli"]
    return None if used == cpu_milli else f"{used} cpu_milli are claimed"


@phrase("expect node NODE open")
def _open(stage: Stage, node: str) -> str | None:
    return None if _node(stage, node)["open"] else "it is closed"


@phrase("expect node NODE closed")
def _closed(stage: Stage, node: str) -> str | None:
    return "it is open" if _node(stage, node)["open"] else None


def _node(stage: Stage, node: str) -> Row:
    return stage.store.rows("node", name=node)[0]


@phrase("expect node NODE alive")
def _alive(stage: Stage, node: str) -> str | None:
    return None if _node(stage, node)["alive"] else "it was declared dead"


@phrase("expect node NODE dead")
def _dead(stage: Stage, node: str) -> str | None:
    return "it is alive" if _node(stage, node)["alive"] else None


@phrase("expect guest N runs nowhere")
def _nowhere(stage: Stage, guest: int) -> str | None:
    runs = [
        name
        for name, node in stage.nodes.by_name.items()
        if any(getattr(node.hardware, kind).get(guest) == "running" for kind in RUNS)
    ]
    return f"it runs on {' and '.join(runs)}" if runs else None


@phrase("expect N guests")
def _guests(stage: Stage, count: int) -> str | None:
    there = len(stage.store.rows("guest"))
    return None if there == count else f"there are {there}"


@phrase("expect network WORD there")
def _network(stage: Stage, network: str) -> str | None:
    return None if stage.store.rows("network", name=network) else "it is gone"


@phrase("expect network WORD gone")
def _no_network(stage: Stage, network: str) -> str | None:
    return "it is there" if stage.store.rows("network", name=network) else None


@phrase("expect volume WORD of N")
def _volume_of(stage: Stage, volume: str, guest: int) -> str | None:
    rows = stage.store.rows("volume", id=volume)
    if not rows:
        return "it is gone"
    return None if rows[0]["guest"] == guest else f"it is of {rows[0]['guest'] or 'no guest'}"


@phrase("expect volume WORD free")
def _volume_free(stage: Stage, volume: str) -> str | None:
    rows = stage.store.rows("volume", id=volume)
    if not rows:
        return "it is gone"
    return None if rows[0]["guest"] is None else f"it is of {rows[0]['guest']}"


@phrase("expect snapshot WORD of N current")
def _current(stage: Stage, name: str, guest: int) -> str | None:
    """Whether it is what the guest's data was put back to last."""
    found = [node.hardware.snapshots.get(f"{guest}/{name}") for node in stage.nodes.by_name.values()]
    return None if "current" in found else f"it is {next(filter(None, found), 'not there')}"


@phrase("expect vcluster N is WORD")
def _version(stage: Stage, guest: int, version: str) -> str | None:
    found = [node.hardware.versions[guest] for node in stage.nodes.by_name.values() if guest in node.hardware.versions]
    return None if found == [version] else f"it is {' and '.join(found) or 'on no node'}"


@phrase("expect audit clean")
def _audit(stage: Stage) -> str | None:
    """The store and the nodes now, the store after every transaction, and every effect of a node at most once."""
    inventory = {name: node.hardware.snapshot() for name, node in stage.nodes.by_name.items()}
    # Between the damage and its discovery the audit says so, as it should.
    damaged = tuple(f"the log of task {task} cannot be read" for task in stage.damaged)
    earlier = [finding for finding in stage.world.findings if not finding.startswith(damaged)]
    findings = [*stage.found, *earlier, *audit(stage.store.rows, stage.world.flows, inventory)]
    for name, node in stage.nodes.by_name.items():
        findings += [f"node {name}: {key} had {count} effects" for key, count in node.made_twice()]
    return "; ".join(dict.fromkeys(findings)) or None
