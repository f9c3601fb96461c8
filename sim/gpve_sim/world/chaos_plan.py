"""Random plans of chaos: a world, what people ask of it, and what befalls it, all by seed and all of it data.

A plan says everything that a run depends on, so it can be kept, replayed and cut down. What is asked for is drawn with
a guess at what each guest will be by then, for most of it should be allowed; one in four asks for anything at all.
"""

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpve.model.errors import InputError
from gpve.model.kinds import KINDS
from gpve.model.phases import GONE, MOVES
from gpve_sim.world.faults import Fault

FIRST_GUEST = 100
HORIZON_S = 400.0
"""By then everything has been asked for."""
ALONE = ("volume_create", "volume_delete", "network_create", "network_delete", "node_drain", "node_open")
"""Flows that are about no guest."""
DRAWN = ("power", "cut", "crash", "pause", "store down", "clock")
OUTAGES = (*DRAWN, "part")
"""Mishaps that befall a part of the world, whatever it does; the others wait for a command (`Fault`)."""


@dataclass(frozen=True)
class Machine:
    """A node: its cores, with 4 GiB each, and its GPUs."""

    name: str
    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class Resident:
    """A guest that is there from the beginning."""

    guest: int
    kind: str
    phase: str
    node: str
    ha: bool = False


@dataclass(frozen=True)
class Wish:
    """What somebody asks of an engine. ``what``: a flow, cancel, or again (the same key and body once more).

    A guest in a body may be ``{"of": number}``: the guest that the task of this wish is about.
    """

    number: int
    at: float
    what: str
    engine: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    of: int | None = None
    """The wish that is to be cancelled or said again."""


@dataclass(frozen=True)
class Mishap:
    """One of `OUTAGES`, or a `Fault` for the first command after ``at`` that it can befall."""

    at: float
    what: str
    subject: str = ""
    """The node or engine (both: node/engine); of a fault: do or undo, if it waits for that."""
    for_s: float = 0.0
    """How long; of a clock: how far it jumps."""


@dataclass(frozen=True)
class Plan:
    """Everything that a run depends on. ``engines``: for each the nodes that it talks to; None: all."""

    seed: int
    nodes: tuple[Machine, ...]
    engines: tuple[tuple[str, ...] | None, ...]
    residents: tuple[Resident, ...]
    guests_limit: int | None
    wishes: tuple[Wish, ...]
    mishaps: tuple[Mishap, ...]
    ha: bool = False
    """Whether the nodes beat, and dead ones are found."""
    forget_s: float | None = None
    """So long after its end the nodes forget a task; None: never."""
    think_s: float = 0.0
    """From an engine's decision on a place to its claim."""

    def text(self) -> str:
        """As a file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_plan(file: Path) -> Plan:
    """A plan that was written. Raises `InputError`."""
    try:
        read = json.loads(file.read_text())
        return Plan(
            read["seed"],
            tuple(Machine(**node) for node in read["nodes"]),
            tuple(None if held is None else tuple(held) for held in read["engines"]),
            tuple(Resident(**resident) for resident in read["residents"]),
            read["guests_limit"],
            tuple(Wish(**wish) for wish in read["wishes"]),
            tuple(Mishap(**mishap) for mishap in read["mishaps"]),
            read.get("ha", False),
            read.get("forget_s"),
            read.get("think_s", 0.0),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"not a plan of gpve chaos ({error})", file) from None


@dataclass
class _Guess:
    """What a guest will be if all goes well."""

    guest: Any
    kind: str
    phase: str
    snapshots: list[str]


def make_plan(seed: int) -> Plan:
    """The plan of a seed."""
    return _Maker(random.Random(f"chaos/{seed}"), seed).plan()


class _Maker:
    def __init__(self, chance: random.Random, seed: int) -> None:
        self.chance, self.seed = chance, seed
        self.luck = random.Random(f"chaos/ha/{seed}")
        self.ha = self.luck.random() < 0.4
        self.nodes = tuple(
            Machine(f"n{at}", chance.choice((6, 8, 12, 16)), chance.choice((0, 0, 0, 2)))
            for at in range(chance.randint(3, 8))
        )
        self.names = [node.name for node in self.nodes]
        self.engines = self._engines(chance.randint(1, 3))
        self.guesses: list[_Guess] = []
        self.networks = ["lan", "spare"]
        self.volumes = ["spare"]
        self.wishes: list[Wish] = []

    def _engines(self, count: int) -> tuple[tuple[str, ...] | None, ...]:
        if count == 1 or self.chance.random() < 0.5:
            return (None,) * count
        # Each node is in the hands of one engine at least.
        held: list[list[str]] = [[] for _ in range(count)]
        for name in self.names:
            for at in self.chance.sample(range(count), self.chance.randint(1, count - 1)):
                held[at].append(name)
        return tuple(tuple(names) for names in held)

    def plan(self) -> Plan:
        residents = tuple(self._resident(FIRST_GUEST + at) for at in range(self.chance.randint(0, 5)))
        for at in sorted(self._moment() for _ in range(self.chance.randint(4, 24))):
            self._ask(at)
            if self.chance.random() < 0.15:
                # A second operator, at the same moment or a little later.
                self._ask(round(at + self.chance.choice((0.0, 0.05, 0.3)), 3), same=True)
        self._crowd(random.Random(f"chaos/crowd/{self.seed}"))
        drawn = [self._mishap() for _ in range(self.chance.randint(0, 14))]
        drawn += [self._parting() for _ in range(self.luck.choice((0, 0, 1, 3)))]
        drawn += [self._long_outage() for _ in range(self.luck.choice((0, 1, 3)) if self.ha else 0)]
        mishaps = sorted(drawn, key=lambda m: m.at)
        limit = self.chance.choice((None, None, len(residents) + 4))
        wishes = tuple(sorted(self.wishes, key=lambda wish: (wish.at, wish.number)))
        forget_s = random.Random(f"chaos/forget/{self.seed}").choice((None, 0.0, 5.0, 60.0))
        think_s = random.Random(f"chaos/think/{self.seed}").choice((0.0, 0.0, 0.02, 0.3))
        asked = (residents, limit, wishes, tuple(mishaps))
        return Plan(self.seed, self.nodes, self.engines, *asked, self.ha, forget_s, think_s)

    def _moment(self) -> float:
        # Crowded at the beginning of some runs, spread over the others.
        return round(self.chance.uniform(0.0, self.chance.choice((5.0, 60.0, HORIZON_S))), 3)

    def _resident(self, guest: int) -> Resident:
        kind = self.chance.choice(KINDS)
        phase = self.chance.choice(("running", "running", "stopped", "paused" if kind == "agent" else "running"))
        self.guesses.append(_Guess(guest, kind, phase, ["old"]))
        return Resident(guest, kind, phase, self.chance.choice(self.names), self._is_ha())

    def _is_ha(self) -> bool:
        return self.ha and self.luck.random() < 0.5

    def _wish(self, at: float, what: str, body: dict[str, Any], of: int | None = None) -> int:
        number = len(self.wishes)
        self.wishes.append(Wish(number, at, what, self.chance.randrange(len(self.engines)), body, of))
        return number

    def _ask(self, at: float, same: bool = False) -> None:
        draw = self.chance.random()
        if self.wishes and draw < 0.12:
            self._wish(at, "cancel", {}, self._earlier())
        elif self.wishes and draw < 0.2:
            self._wish(at, "again", {}, self._earlier())
        elif draw < 0.32:
            self._alone(at, self.chance.choice(ALONE))
        elif not self.guesses or draw < 0.45:
            self._create(at)
        else:
            self._operate(at, self.guesses[-1] if same else self.chance.choice(self.guesses))

    def _earlier(self) -> int:
        # What was asked last is most likely still under way.
        back = min(len(self.wishes), self.chance.choice((1, 1, 1, 2, 3, 8)))
        found = self.wishes[-back]
        return found.number if found.of is None else found.of

    def _node(self) -> str | None:
        return self.chance.choice((None, self.chance.choice(self.names)))

    def _size(self) -> dict[str, int]:
        return {"cpu_milli": self.chance.choice((500, 1000, 2500)), "memory_mib": self.chance.choice((512, 1024, 4096))}

    def _create(self, at: float) -> None:
        kind = self.chance.choice(KINDS)
        runs = self.chance.random() < 0.7
        networks = self.chance.sample(self.networks[:3], self.chance.randint(0, 2))
        body: dict[str, Any] = {"name": f"g{len(self.wishes)}", **self._size(), "autostart": runs}
        body |= {"networks": networks}
        body["node"] = self.chance.choice((None, None, self._node()))
        if kind == "vm":
            body["disks"] = [{"size_gib": 4 + disk} for disk in range(self.chance.randint(1, 2))]
        if self._is_ha():
            body["ha"] = True
            if kind == "vm":
                body["disks"] = [{**disk, "pool": "shared"} for disk in body["disks"]]
            elif kind == "vcluster":
                body["pool"] = "shared"
        if self.chance.random() < 0.15:
            body |= {"gpu_count": 1, "gpu_milli": self.chance.choice((500, 1000))}
        number = self._wish(at, f"{kind}_create", body)
        self.guesses.append(_Guess({"of": number}, kind, "running" if runs else "stopped", []))

    def _crowd(self, chance: random.Random) -> None:
        """Now and then many want what is left of the nodes at one moment, some at this engine, some at that."""
        if chance.random() < 0.85:
            return
        at = chance.uniform(0.0, 30.0)
        for _ in range(chance.randint(6, 24)):
            number = len(self.wishes)
            size = {"cpu_milli": chance.choice((2000, 3000)), "memory_mib": 512}
            body = {"name": f"g{number}", **size, "autostart": chance.random() < 0.5}
            soon = round(at + chance.choice((0.0, 0.0, 0.01, 0.02)), 3)
            self.wishes.append(Wish(number, soon, "agent_create", chance.randrange(len(self.engines)), body))

    def _alone(self, at: float, flow: str) -> None:
        name = f"x{len(self.wishes)}"
        match flow:
            case "volume_create":
                self._wish(at, flow, {"volume": name, "node": self.chance.choice(self.names), "size_gib": 1})
                self.volumes.append(name)
            case "network_create":
                self._wish(at, flow, {"network": name})
                self.networks.insert(0, name)
            case "volume_delete":
                self._wish(at, flow, {"volume": self.chance.choice(self.volumes)})
            case "network_delete":
                self._wish(at, flow, {"network": self.chance.choice(self.networks)})
            case _:
                # Not drawn: that would make other plans of all the seeds that tests and people have kept.
                closes = flow == "node_open" and len(self.wishes) % 3 == 0
                self._wish(at, "node_close" if closes else flow, {"node": self.chance.choice(self.names)})

    def _operate(self, at: float, guess: _Guess) -> None:
        moves = MOVES[guess.kind]
        sensible = [name for name, move in moves.items() if guess.phase in move.before]
        every = [name for name in moves if name != "create"]
        operation = self.chance.choice(sensible if sensible and self.chance.random() < 0.75 else every)
        if guess.kind == "vm" and self.chance.random() < 0.2:
            # Nothing else has a commit point, and two nodes.
            operation = "migrate"
        named = operation.replace("-", "_")
        flow = named if named.startswith(("volume", "network")) else f"{guess.kind}_{named}"
        number = self._wish(at, flow, {"guest": guess.guest, **self._more(operation, guess)})
        move = moves[operation]
        if guess.phase not in move.before:
            return
        if operation == "clone":
            self.guesses.append(_Guess({"of": number}, guess.kind, "stopped", []))
        guess.phase = move.done(guess.phase)
        if guess.phase == GONE:
            self.guesses.remove(guess)

    def _more(self, operation: str, guess: _Guess) -> dict[str, Any]:
        """The rest of the body."""
        match operation:
            case "migrate":
                return {"to": self._node()}
            case "clone":
                return {"name": f"g{len(self.wishes)}", "node": self._node()}
            case "snapshot" | "checkpoint":
                guess.snapshots.append(f"s{len(self.wishes)}")
                return {"name": guess.snapshots[-1]}
            case "rollback" | "restore":
                return {"name": self.chance.choice([*guess.snapshots, "none"])}
            case "resize":
                return self._size()
            case "upgrade":
                return {"version": f"v1.{31 + self.chance.randrange(3)}.{len(self.wishes)}"}
            case "volume-attach" | "volume-detach":
                return {"volume": self.chance.choice(self.volumes)}
            case "network-attach" | "network-detach":
                return {"network": self.chance.choice(self.networks)}
        return {}

    def _parting(self) -> Mishap:
        """A node and an engine lose each other, and nobody else."""
        who = f"{self.luck.choice(self.names)}/{self.luck.randrange(len(self.engines))}"
        return Mishap(round(self.luck.uniform(0.0, HORIZON_S), 3), "part", who, round(self.luck.uniform(1.0, 90.0), 3))

    def _long_outage(self) -> Mishap:
        """A node is away for long enough to be declared dead."""
        what, who = self.luck.choice(("power", "cut")), self.luck.choice(self.names)
        return Mishap(round(self.luck.uniform(0.0, HORIZON_S), 3), what, who, round(self.luck.uniform(30.0, 150.0), 3))

    def _mishap(self) -> Mishap:
        at = self._moment()
        if self.chance.random() < 0.6:
            return Mishap(at, str(self.chance.choice(list(Fault))), self.chance.choice(("", "", "do", "undo")))
        what = self.chance.choice(DRAWN)
        for_s = round(self.chance.choice((2.0, 15.0, 70.0)) * self.chance.uniform(0.5, 1.5), 3)
        match what:
            case "power" | "cut":
                return Mishap(at, what, self.chance.choice(self.names), for_s)
            case "crash":
                return Mishap(at, what, str(self.chance.randrange(len(self.engines))))
            case "pause":
                return Mishap(at, what, str(self.chance.randrange(len(self.engines))), for_s)
            case "clock":
                return Mishap(at, what, "", self.chance.choice((-3600.0, -30.0, 30.0, 700.0, 3600.0)))
        return Mishap(at, what, "", min(for_s, 30.0))
