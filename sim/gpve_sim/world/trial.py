"""One world, one task, the faults of a plan: run to the end, and everything that is wrong with it afterwards."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from gpve.tasks.audit import audit
from gpve.tasks.events import encode
from gpve.tasks.flow import Flows
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import request
from gpve.world.placer import Placer
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Faults, Injection
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.store import MemoryStore

NODES = ("a", "b", "c")
LONGEST_S = 40_000.0
"""No trial takes longer: by then every deadline has passed."""
POWER = ("node dies before", "node dies after the effect", "node dies after the record")


@dataclass
class Trial:
    """What came of it."""

    status: str
    findings: list[str]
    fired: list[Injection]
    log: list[Row] = field(repr=False, default_factory=list)
    points: list[tuple[str, str]] = field(default_factory=list)
    """(step, direction) pairs that the log passed, in order."""


def body_of(flow: str, seed: int) -> dict[str, Any]:
    """Fresh parameters for a flow's task in the world of `populate`."""
    size = {"cpu_milli": 1000 + seed % 7 * 250, "memory_mib": 1024 + seed % 11 * 128}
    match flow:
        case "vm_create":
            disks = [{"size_gib": 4 + at} for at in range(1 + seed % 3)]
            return {"name": f"vm-{seed}", **size, "disks": disks, "networks": ["lan"]}
        case "vm_migrate":
            return {"guest": 100}
        case "agent_start":
            return {"guest": 101}
    raise KeyError(flow)


def populate(world: World, seed: int) -> None:
    """Three nodes, a network, a VM that runs on node a, an agent that never ran."""
    size = {"cpu_milli": 2000 + seed % 5 * 100, "memory_mib": 2048, "gpu_count": 0, "gpu_milli": 0, "ha": False}
    agent = {"cpu_milli": 500, "memory_mib": 512 + seed % 3, "gpu_count": 0, "gpu_milli": 0, "ha": False}

    def write(tx: Tx) -> None:
        for name in NODES:
            used = name == "a"
            tx.put("node", node_row(name, size["cpu_milli"] * used, size["memory_mib"] * used))
        tx.put("network", {"name": "lan", "kind": "bridge", "task": None})
        for number, kind, phase, node, spec in (
            (100, "vm", "running", "a", size),
            (101, "agent", "stopped", None, agent),
        ):
            tx.take("guest")
            row = {"id": number, "kind": kind, "name": f"g{number}", "project": "default", "phase": phase}
            tx.put("guest", {**row, "phase_before": None, "task": None, "node": node, "spec": encode(spec)})
        tx.put("volume", {"id": "100-0", "guest": 100, "pool": "local", "node": "a", "size_gib": 8, "task": None})
        tx.put("port", {"guest": 100, "network": "lan", "mac": "02:00:00:00:06:40"})
        claim = {"guest": 100, "node": "a", "role": "placement", "task": None, "gpu_milli": 0, "devices": "{}"}
        tx.put("claim", {**claim, "cpu_milli": size["cpu_milli"], "memory_mib": size["memory_mib"]})
        quota = {"project": "default", "guests": 2, "guests_limit": None, "cpu_milli_limit": None}
        quota |= {"cpu_milli": size["cpu_milli"] + agent["cpu_milli"], "memory_mib_limit": None}
        tx.put("quota", {**quota, "memory_mib": size["memory_mib"] + agent["memory_mib"]})

    for error in world.store.transact([Work(write)]):
        if error is not None:
            raise error
    hardware = world.nodes.by_name["a"].hardware
    hardware.volumes["100-0"] = 100
    hardware.ports[100, "lan"] = "02:00:00:00:06:40"
    hardware.machines[100] = "running"


def node_row(name: str, used_cpu_milli: int = 0, used_memory_mib: int = 0, cores: int = 16) -> Row:
    """A node without GPUs, of ``cores`` cores and 4 GiB a core."""
    return {
        "name": name,
        "open": True,
        "alive": True,
        "cpu_milli": 1000 * cores,
        "memory_mib": 4096 * cores,
        "gpus": "[]",
        "gpu_model": "",
        "labels": "{}",
        "taints": "[]",
        "used_cpu_milli": used_cpu_milli,
        "used_memory_mib": used_memory_mib,
        "used_gpu_milli": "[]",
        "version": 0,
    }


def run_trial(
    flow: str,
    plan: Sequence[Injection],
    placer: Callable[[], Placer],
    seed: int = 0,
    flows: Flows = FLOWS,
    make_world: type[World] = World,
) -> Trial:
    """Run a task of ``flow`` under the faults of ``plan``."""
    env = simpy.Environment()
    faults = Faults(plan)
    store = MemoryStore(lambda: env.now)
    world = make_world(env, store, SimNodes(env, list(NODES), faults), placer, flows, faults)
    populate(world, seed)
    before = picture(world)
    world.start(engines=2)
    answer = world.submit(request(flows, flow, body_of(flow, seed), key=f"key-{seed}"))
    while env.now < LONGEST_S and not _settled(store):
        env.run(env.now + 50.0)
    # What comes late must come before the last look.
    world.stopped = True
    env.run()
    rows = list(store.tables["task"].values())
    status = rows[0]["status"] if rows else "never submitted"
    inventory = {name: node.hardware.snapshot() for name, node in world.nodes.by_name.items()}
    findings = audit(store.rows, flows, inventory)
    if status not in CLOSED and status != Status.STUCK:
        findings.append(f"after {env.now:g} s the task is {status} ({answer})")
    if status == Status.UNDONE:
        findings += difference(before, picture(world), any(i.fault in POWER for i in faults.fired))
    for node in world.nodes.by_name.values():
        for (key, _), count in node.effects.items():
            if count > 1:
                findings.append(f"node {node.name}: {key} had {count} effects")
    log = store.rows("event")
    points = [(row["step"], "undo" if "undo" in row["kind"] else "do") for row in log if row["step"]]
    return Trial(status, findings, faults.fired, log, list(dict.fromkeys(points)))


def _settled(store: MemoryStore) -> bool:
    tasks = store.tables["task"].values()
    return bool(tasks) and all(row["status"] in (*CLOSED, Status.STUCK) for row in tasks)


KEPT = ("counter", "engine", "task", "event", "idempotency", "change")
"""Tables that an undone task may change."""


def picture(world: World) -> dict[str, Any]:
    """All that an undone task must leave as it was: rows without their revisions and versions, and the nodes."""
    seen: dict[str, Any] = {}
    for name, rows in world.store.tables.items():
        if name not in KEPT:
            for key, row in rows.items():
                kept = {column: value for column, value in row.items() if column not in ("revision", "version")}
                seen[f"{name} {key}"] = json.dumps(kept, sort_keys=True)
    for name, node in world.nodes.by_name.items():
        for kind, things in node.hardware.snapshot().items():
            for key, value in things.items():
                seen[f"node {name} {kind} {key}"] = value
    return seen


def difference(before: dict[str, Any], after: dict[str, Any], power_lost: bool) -> list[str]:
    """What an undone task left changed. After a loss of power machines are off, and sandboxes gone."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new or (power_lost and new in ("defined", "running") and old in ("defined", "running")):
            continue
        found.append(f"undone, but {key} was {old} and is {new}")
    return found
