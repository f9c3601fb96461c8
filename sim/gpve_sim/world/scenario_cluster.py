"""The cluster of a scenario: what its world.toml may say, and the world made of it, whose events can be followed."""

import tomllib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import simpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpve.model.errors import InputError
from gpve.model.phases import STEADY
from gpve.scheduler.policy import load
from gpve.tasks.advance import Operation
from gpve.tasks.events import encode
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Key, Row, Tx, Work
from gpve.tasks.operations import key_of
from gpve.tasks.outcome import Refused
from gpve.tasks.worker import Rules
from gpve.world.placement import SchedulerPlacer
from gpve_sim.world.engine import SimEngine, World
from gpve_sim.world.faults import Faults
from gpve_sim.world.nodes import Answer, SimNodes
from gpve_sim.world.store import MemoryStore, MemoryTx
from gpve_sim.world.trial import add_guest, install, node_row

FIRST_GUEST = 100


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSpec(_Spec):
    """A node: 4 GiB of memory a core."""

    cores: int = Field(16, ge=1)
    gpus: int = Field(0, ge=0)


class GuestSpec(_Spec):
    """A guest that is there already; the first is guest 100. It has a port in the network lan."""

    kind: Literal["vm", "vcluster", "agent"] = "vm"
    name: str
    phase: str = "running"
    node: str
    cpu_milli: int = 2000
    memory_mib: int = 2048
    snapshots: tuple[str, ...] = ()
    version: str = "v1.30.1"
    """Of a vCluster."""
    ha: bool = False
    """Restart it elsewhere when its node dies."""


class VolumeSpec(_Spec):
    """A volume that belongs to no guest."""

    node: str
    size_gib: int = 8


class QuotaSpec(_Spec):
    """What the project ``default`` may have."""

    guests: int | None = None
    cpu_milli: int | None = None
    memory_mib: int | None = None


class ClusterSpec(_Spec):
    """A world.toml."""

    nodes: dict[str, NodeSpec]
    engines: dict[str, tuple[str, ...]] = {"one": (), "two": ()}
    """By name: the nodes that it talks to; none named: all."""
    networks: tuple[str, ...] = ()
    """Besides lan."""
    guests: tuple[GuestSpec, ...] = ()
    volumes: dict[str, VolumeSpec] = {}
    quota: QuotaSpec = QuotaSpec()
    ha: bool = False
    """Whether the nodes beat, and dead ones are found."""
    lease_s: float = 20.0
    sweep_s: float = 5.0
    restart_s: float = 3.0
    """How long an engine that crashed is away."""
    delay_s: float = 0.001
    """One way to a node."""
    work_s: float = 1.0
    """What a node takes for an operation."""
    work: dict[str, float] = {}
    """By verb, where it takes another time."""


def read_cluster(path: Path) -> ClusterSpec:
    """Read a world.toml. Raises `InputError`."""
    try:
        spec = ClusterSpec.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not TOML: {error}", path) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(first["msg"], path, column=".".join(map(str, first["loc"]))) from None
    named = [("guests", guest.node) for guest in spec.guests] + [("volumes", v.node) for v in spec.volumes.values()]
    named += [("engines", node) for nodes in spec.engines.values() for node in nodes]
    for column, node in named:
        if node not in spec.nodes:
            raise InputError(f"no node {node!r}; there are {', '.join(spec.nodes)}", path, column=column)
    for guest in spec.guests:
        if guest.phase not in STEADY[guest.kind]:
            there = ", ".join(sorted(STEADY[guest.kind]))
            raise InputError(f"a {guest.kind} is never {guest.phase!r} at rest; {there}", path, column="guests")
    return spec


@dataclass
class Mishap:
    """What befalls the next commands of a verb to a node."""

    kind: Literal["refuse", "lose", "mute", "repeat", "delay"]
    verb: str
    node: str
    left: float = 1.0
    """How many commands it still befalls."""
    seconds: float = 0.0
    befell: int = 0
    """How many it has befallen."""


class StagedNodes(SimNodes):
    """Nodes whose commands meet mishaps when the script says so."""

    def __init__(self, env: simpy.Environment, spec: ClusterSpec) -> None:
        super().__init__(env, list(spec.nodes), Faults(), delay_s=spec.delay_s, work_s=spec.work_s, leases=spec.ha)
        self.work_of = lambda operation: spec.work.get(operation.verb, spec.work_s)
        self.mishaps: list[Mishap] = []

    def send(self, operation: Operation, answer: Answer) -> None:
        """As in `gpve.world.nodes.Nodes`."""
        mishap = self._meets(operation)
        match mishap.kind if mishap is not None else None:
            case "lose":
                return
            case "mute":
                super().send(operation, lambda operation, outcome: None)
                return
            case "refuse":
                self.env.process(self._refuse(operation, answer))
                return
        if mishap is not None:
            self.env.process(self._send_later(operation, answer, mishap.seconds))
            if mishap.kind == "delay":
                return
        super().send(operation, answer)

    def _meets(self, operation: Operation) -> Mishap | None:
        for mishap in self.mishaps:
            due = (mishap.verb, mishap.node) == (operation.verb, operation.node) and mishap.left > 0
            if due and (mishap.kind != "refuse" or self._may_refuse(operation)):
                mishap.left -= 1
                mishap.befell += 1
                return mishap
        return None

    def _may_refuse(self, operation: Operation) -> bool:
        """A refusal says that nothing was changed: no node says so of what it did, or of a tombstone."""
        node = self.by_name[operation.node]
        return node.up and not operation.tombstone and not node.did(key_of(operation))

    def _refuse(self, operation: Operation, answer: Answer) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(2.0 * self.delay_s)
        answer(operation, Refused("refused by the script"))

    def _send_later(self, operation: Operation, answer: Answer, after: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(after)
        super().send(operation, answer)


class FollowedStore(MemoryStore):
    """A store that tells of every event and every alarm once it is written."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.clock = clock
        self.written: Callable[[list[Row], list[Row]], None] = lambda events, alarms: None

    def transact(self, works: Sequence[Work], before: Callable[[MemoryTx], None] | None = None) -> list[Any]:
        """As in `gpve.world.store.Store`."""
        keys: dict[tuple[str, Key], None] = {}

        def look(tx: MemoryTx) -> None:
            if before is not None:
                before(tx)
            keys.update(((table, key), None) for table, key, _ in tx.journal)

        results = super().transact(works, look)
        self.written(self._now(keys, "event"), self._now(keys, "alarm"))
        return results

    def _now(self, keys: Iterable[tuple[str, Key]], table: str) -> list[Row]:
        rows = self.tables[table]
        return [rows[key] for where, key in keys if where == table and key in rows]


@dataclass
class Clock:
    """The store's clock, which may jump. It does not begin at zero, so that it may jump back."""

    env: simpy.Environment
    ahead_s: float = 100_000.0

    def __call__(self) -> float:
        """Seconds."""
        return float(self.env.now) + self.ahead_s


def build(spec: ClusterSpec) -> World:
    """The world of a scenario; its engines begin when it runs. Raises `InputError` if the guests do not fit."""
    env = simpy.Environment()
    store = FollowedStore(Clock(env))
    nodes = StagedNodes(env, spec)
    rules = Rules(lease_s=spec.lease_s, sweep_s=spec.sweep_s)
    policy = load("best-fit")
    world = World(env, store, nodes, lambda: SchedulerPlacer(policy), FLOWS, rules=rules, restart_s=spec.restart_s)
    world.audited = True
    for result in store.transact([Work(lambda tx: _furnish(tx, spec))]):
        if result is not None:
            raise result
    for at, guest in enumerate(spec.guests):
        install(nodes.by_name[guest.node].hardware, FIRST_GUEST + at, guest.kind, guest.phase, _made_of(guest))
    for name, volume in spec.volumes.items():
        nodes.by_name[volume.node].hardware.volumes[name] = None
    for name, talks_to in spec.engines.items():
        world.engines.append(SimEngine(world, name, frozenset(talks_to) if talks_to else None))
    if spec.ha:
        world.beat()
    return world


def _furnish(tx: Tx, spec: ClusterSpec) -> None:
    """The rows of what is there before the story begins."""
    for name, node in spec.nodes.items():
        full, none = encode([1000] * node.gpus), encode([0] * node.gpus)
        model = "T4" if node.gpus else ""
        tx.put("node", node_row(name, cores=node.cores) | {"gpus": full, "used_gpu_milli": none, "gpu_model": model})
    for network in ("lan", *spec.networks):
        tx.put("network", {"name": network, "kind": "bridge", "task": None})
    for name, volume in spec.volumes.items():
        row = {"id": name, "guest": None, "pool": "local", "node": volume.node, "size_gib": volume.size_gib}
        tx.put("volume", {**row, "task": None})
    used = {"project": "default", "guests": 0, "cpu_milli": 0, "memory_mib": 0}
    tx.put("quota", used | {f"{name}_limit": limit for name, limit in spec.quota.model_dump().items()})
    for at, guest in enumerate(spec.guests):
        number = FIRST_GUEST + at
        add_guest(tx, number, guest.kind, guest.phase, guest.node, _made_of(guest))
        tx.put("guest", {**(tx.get("guest", number) or {}), "name": guest.name})


def _made_of(guest: GuestSpec) -> dict[str, Any]:
    spec: dict[str, Any] = {"cpu_milli": guest.cpu_milli, "memory_mib": guest.memory_mib}
    spec |= {"gpu_count": 0, "gpu_milli": 0, "ha": guest.ha, "snapshots": list(guest.snapshots)}
    return spec | ({"version": guest.version} if guest.kind == "vcluster" else {})
