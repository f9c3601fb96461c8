"""One world, one task, the faults of a plan: run to the end, and everything that is wrong with it afterwards."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import simpy

from gpve.model.kinds import KINDS
from gpve.model.phases import GONE, MOVES
from gpve.tasks.audit import audit
from gpve.tasks.claims import charged
from gpve.tasks.events import encode
from gpve.tasks.flow import Flows
from gpve.tasks.flows import FLOWS
from gpve.tasks.flows.create import mac_of
from gpve.tasks.flows.guests import charge, charged_for
from gpve.tasks.ledger import Row, Tx, Work
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import request
from gpve.world.hardware import Hardware, after_power_loss
from gpve.world.placer import Placer
from gpve.world.store import StoreDown
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Faults, Injection
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.store import MemoryStore

NODES = ("a", "b", "c")
CAST = 102
"""The guest that a flow is about, where no other will do."""
SHAPES = 64
"""Worlds and bodies differ by seed in so many ways, and in names."""
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
    phases: dict[int, str] = field(default_factory=dict)
    """Of every guest, at the end."""
    seen: dict[str, Any] = field(repr=False, default_factory=dict)
    """The `picture` at the end."""


def body_of(flow: str, seed: int) -> dict[str, Any]:
    """Fresh parameters for a flow's task in the world of `populate`."""
    shape = seed % SHAPES
    size = {"cpu_milli": 1000 + shape % 7 * 250, "memory_mib": 1024 + shape % 11 * 128}
    kind, _, operation = flow.partition("_")
    match kind, operation:
        case "vm", "create":
            disks = [{"size_gib": 4 + at} for at in range(1 + shape % 3)]
            return {"name": f"vm-{seed}", **size, "disks": disks, "networks": ["lan"]}
        case "vcluster" | "agent", "create":
            return {"name": f"{kind}-{seed}", **size, "networks": ["lan"], "autostart": shape % 4 < 3}
        case "vm", "migrate":
            return {"guest": CAST if shape % 4 == 3 else 100}
        case "agent", "start":
            return {"guest": CAST if shape % 4 == 3 else 101}
        case "agent", "delete":
            return {"guest": 101 if shape % 4 == 3 else CAST}
        case _, "clone":
            return {"guest": CAST, "name": f"{kind}-{seed}", "node": NODES[shape % 4] if shape % 4 < 3 else None}
        case _, "snapshot" | "checkpoint":
            return {"guest": CAST, "name": f"new-{shape}"}
        case _, "rollback" | "restore":
            return {"guest": CAST, "name": ("old", "older")[shape % 2]}
        case "vm" | "vcluster", "resize":
            return {"guest": CAST, "cpu_milli": (500, 3000)[shape % 2], "memory_mib": (512, None, 4096)[shape % 3]}
        case "vcluster", "upgrade":
            return {"guest": CAST, "version": f"v1.{31 + shape % 3}.{shape}"}
        case "volume", "create":
            return {"volume": f"volume-{shape}", "node": NODES[shape % 3], "size_gib": 1 + shape}
        case "volume", "delete":
            return {"volume": "spare"}
        case "volume", _:
            return {"guest": CAST, "volume": "spare" if operation == "attach" else "data"}
        case "network", "create" | "delete":
            return {"network": "spare" if operation == "delete" else f"network-{shape}"}
        case "network", _:
            return {"guest": CAST, "network": "spare" if operation == "attach" else "lan"}
        case "node", _:
            return {"node": "a" if operation == "drain" else "c"}
    return {"guest": CAST}


def cast_of(flow: str, seed: int) -> tuple[str, str]:
    """Kind and phase of the guest that the flow is about, where it is about one: each phase that it allows in turn."""
    kind, _, operation = flow.partition("_")
    turn = seed % SHAPES
    if kind == "network":
        kind, turn, operation = KINDS[turn % 3], turn // 3, "network-attach"
    elif kind == "volume":
        kind, operation = "vm", "volume-attach"
    elif kind == "node":
        kind, operation = "vm", "recover" if operation in ("rejoin", "survey") else "migrate"
    phases = sorted(MOVES[kind][operation].before - {GONE}) or ["stopped"]
    return kind, phases[turn % len(phases)]


def populate(world: World, seed: int, flow: str = "vm_create") -> None:
    """Three nodes, a network, a VM that runs on node a, an agent that never ran, and a guest for the flow.

    A guest to be recovered was on a node that is dead, and has ended it; a node that rejoins was dead, has something
    left of the VM that is on node a by now, and does not run the guest that should run on it.
    """
    shape = seed % SHAPES
    none = {"gpu_count": 0, "gpu_milli": 0, "ha": False}
    kind, phase = cast_of(flow, seed)
    home = {"node_drain": "a", "node_rejoin": "c", "node_survey": "c"}.get(flow, "b")
    dead = home if flow == "node_rejoin" or flow.endswith("_recover") else None
    vm = {"cpu_milli": 2000 + shape % 5 * 100, "memory_mib": 2048, **none}
    agent = {"cpu_milli": 500, "memory_mib": 512 + shape % 3, **none}
    cast = {"cpu_milli": 1000 + shape % 3 * 100, "memory_mib": 1024, **none, "snapshots": ["old", "older"]}
    if kind == "vcluster":
        cast["version"] = "v1.30.1"
    if flow.endswith("_recover"):
        # What is put back at each node's own disks does not follow.
        cast |= {"ha": True, "snapshots": []}

    def write(tx: Tx) -> None:
        for name in NODES:
            is_open = flow != "node_open" or name != "c"
            tx.put("node", node_row(name) | {"open": is_open, "alive": name != dead})
        for network in ("lan", "spare"):
            tx.put("network", {"name": network, "kind": "bridge", "task": None})
        volume = {"guest": None, "pool": "local", "node": "b", "size_gib": 8, "task": None}
        tx.put("volume", {**volume, "id": "spare"})
        add_guest(tx, 100, "vm", "running", "a", vm)
        add_guest(tx, 101, "agent", "stopped", None, agent)
        add_guest(tx, CAST, kind, phase, home, cast)
        if kind == "vm":
            tx.put("volume", {**volume, "id": "data", "guest": CAST, "node": home})
        if flow == "node_rejoin":
            tx.put("debris", {"node": "c", "guest": 100})

    for error in world.store.transact([Work(write)]):
        if error is not None:
            raise error
    install(world.nodes.by_name["a"].hardware, 100, "vm", "running", vm)
    install(world.nodes.by_name[home].hardware, CAST, kind, phase, cast)
    world.nodes.by_name["b"].hardware.volumes["spare"] = None
    if kind == "vm":
        world.nodes.by_name[home].hardware.volumes["data"] = CAST
    if dead is not None or flow == "node_survey":
        world.nodes.by_name[home].hardware.power_loss()
    if flow == "node_rejoin":
        install(world.nodes.by_name["c"].hardware, 100, "vm", "stopped", vm)


def add_guest(tx: Tx, number: int, kind: str, phase: str, node: str | None, spec: dict[str, Any]) -> None:
    """The rows of a guest: its own, its claim, volume, port and quota."""
    tx.take("guest")
    row = {"id": number, "kind": kind, "name": f"g{number}", "project": "default", "phase": phase}
    tx.put("guest", {**row, "phase_before": None, "task": None, "node": node, "spec": encode(spec)})
    charge(tx, "default", charged_for(spec), +1)
    if node is None:
        return
    tx.put("port", {"guest": number, "network": "lan", "mac": mac_of(number, 0)})
    if kind != "agent":
        volume = {"id": f"{number}-0", "guest": number, "pool": "local", "node": node}
        tx.put("volume", {**volume, "size_gib": 8, "task": None})
    if kind != "agent" or phase != "stopped":
        claim = {"guest": number, "node": node, "role": "placement", "task": None, "gpu_milli": 0, "devices": "{}"}
        claim |= {"cpu_milli": spec["cpu_milli"], "memory_mib": spec["memory_mib"]}
        tx.put("claim", claim)
        tx.put("node", charged(tx.get("node", node) or {}, claim, +1))


def install(hardware: Hardware, number: int, kind: str, phase: str, spec: dict[str, Any]) -> None:
    """The same guest on its node."""
    if spec["ha"]:
        hardware.ha.add(number)
    state = "defined" if phase == "stopped" else phase
    if kind != "agent" or phase != "stopped":
        hardware.ports[number, "lan"] = mac_of(number, 0)
    for name in spec.get("snapshots", ()):
        hardware.snapshots[f"{number}/{name}"] = "taken"
    if kind == "agent":
        hardware.workspaces[number] = "closed" if phase == "stopped" else "open"
        if phase != "stopped":
            hardware.sandboxes[number] = state
        return
    hardware.volumes[f"{number}-0"] = number
    hardware.sizes[number] = f"{spec['cpu_milli']}/{spec['memory_mib']}"
    if kind == "vm":
        hardware.machines[number] = state
    else:
        hardware.planes[number] = state
        hardware.versions[number] = spec["version"]
        hardware.endpoints[number] = f"vcluster-{number}"


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
    make_world: Callable[..., World] = World,
) -> Trial:
    """Run a task of ``flow`` under the faults of ``plan``."""
    env = simpy.Environment()
    faults = Faults(plan)
    store = MemoryStore(lambda: env.now)
    world = make_world(env, store, SimNodes(env, list(NODES), faults), placer, flows, faults)
    populate(world, seed, flow)
    before = picture(world)
    world.start(engines=2)
    wish = request(flows, flow, body_of(flow, seed), key=f"key-{seed}")
    answer = world.submit(wish)
    while env.now < LONGEST_S and not _settled(store):
        env.run(env.now + 50.0)
        if answer and isinstance(answer[-1], StoreDown):
            # As a client does whom the store told nothing: again, with the same key.
            answer = world.submit(wish)
    # What comes late must come before the last look.
    world.stop()
    env.run()
    rows = list(store.tables["task"].values())
    status = rows[0]["status"] if rows else "never submitted"
    inventory = {name: node.hardware.snapshot() for name, node in world.nodes.by_name.items()}
    findings = audit(store.rows, flows, inventory)
    if status not in CLOSED and status != Status.STUCK:
        findings.append(f"after {env.now:g} s the task is {status} ({answer})")
    after = picture(world)
    power_lost = any(i.fault in POWER for i in faults.fired)
    if status == Status.UNDONE:
        findings += difference(status, before, after, power_lost, flow)
    elif status == Status.DONE and plan:
        wanted = fault_free(flow, seed % SHAPES, placer, flows)
        findings += difference(status, wanted, after, power_lost, flow)
    for node in world.nodes.by_name.values():
        findings += [f"node {node.name}: {key} had {count} effects" for key, count in node.made_twice()]
    log = store.rows("event")
    points = [(row["step"], "undo" if "undo" in row["kind"] else "do") for row in log if row["step"]]
    phases = {row["id"]: row["phase"] for row in store.rows("guest")}
    return Trial(status, findings, faults.fired, log, list(dict.fromkeys(points)), phases, after)


@lru_cache(maxsize=1024)
def fault_free(flow: str, shape: int, placer: Callable[[], Placer], flows: Flows) -> dict[str, Any]:
    """The picture after a run in which nothing happened."""
    return run_trial(flow, (), placer, shape, flows).seen


def _settled(store: MemoryStore) -> bool:
    tasks = store.tables["task"].values()
    return bool(tasks) and all(row["status"] in (*CLOSED, Status.STUCK) for row in tasks)


KEPT = ("counter", "engine", "task", "event", "idempotency", "change")
"""Tables that an undone task may change."""
UNSEEN = ("revision", "version", "name")
"""Columns that may differ."""


def picture(world: World) -> dict[str, Any]:
    """All that an undone task must leave as it was: rows without their revisions and versions, and the nodes."""
    seen: dict[str, Any] = {}
    for name, rows in world.store.tables.items():
        if name not in KEPT:
            for key, row in rows.items():
                kept = {column: value for column, value in row.items() if column not in UNSEEN}
                seen[f"{name} {key}"] = json.dumps(kept, sort_keys=True)
    for name, node in world.nodes.by_name.items():
        seen[f"{name} is open"] = world.store.tables["node"][name,]["open"]
        for kind, things in node.hardware.snapshot().items():
            for key, value in things.items():
                seen[f"on {name} {kind} {key}"] = value
    return seen


def difference(
    status: str, wanted: dict[str, Any], found: dict[str, Any], power_lost: bool, flow: str = ""
) -> list[str]:
    """What is not as it was before (undone), or as it is without faults (done).

    After a loss of power machines are off, and sandboxes gone. What a drain has moved stays moved, wherever that is.
    """
    told = []
    for key in sorted(wanted.keys() | found.keys()):
        old, new = wanted.get(key), found.get(key)
        off = power_lost and key.startswith("on ") and new == after_power_loss(key.split()[2], old)
        moved = flow == "node_drain" and not key.endswith(" is open")
        if old != new and not off and not moved:
            told.append(f"{status}, but {key} should be {old} and is {new}")
    return told
