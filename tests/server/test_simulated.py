"""The simulated executor's disk: what a restart finds, also after failures and kill -9, and what a change writes."""

import asyncio
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.node.journal import Disk, Journal
from gpve.node.kept import Kept
from gpve.node.node import Node
from gpve.node.simulated import Simulated
from gpve.tasks.advance import Operation
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown
from gpve.world.hardware import Cannot, Hardware
from gpve.world.verbs import VERBS


class Watched:
    """A connection that counts what it writes, and whose ``fails_at``-th statement from now finds the disk full."""

    def __init__(self, real: sqlite3.Connection) -> None:
        self.real, self.fails_at = real, 0
        self.commits = self.rows = self.bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        if not sql.startswith(("SELECT", "ROLLBACK")) and self.fails_at:
            self.fails_at -= 1
            if not self.fails_at:
                raise sqlite3.OperationalError("database or disk is full")
        self.commits += sql == "COMMIT"
        if sql.startswith(("INSERT", "DELETE")):
            self.rows += 1
            self.bytes += sum(len(value) for value in values if isinstance(value, str | bytes))
        return self.real.execute(sql, values)


def watched(disk: Disk) -> Watched:
    disk._database.execute("PRAGMA synchronous = OFF")
    disk._database = found = Watched(disk._database)  # type: ignore[assignment]
    return found


class Led(Node):
    """A node that is told whether it has its lease."""

    has_lease = False

    @property
    def leased(self) -> bool:
        return self.has_lease

    async def lead(self, has_lease: bool) -> None:
        self.has_lease = has_lease
        await (self.grant(0.0) if has_lease else self.expire())


@dataclass
class Agent:
    """A node agent on a file, and another reader of the file who sees what is really there."""

    path: Path
    reader: Disk = field(init=False)

    def __post_init__(self) -> None:
        self.start()
        self.reader = Disk(self.path)

    def start(self) -> None:
        self.disk = Disk(self.path)
        self.watched = watched(self.disk)
        self.executor = Simulated(Journal(self.disk, "a"))
        self.node = Led("a", Journal(self.disk, "a"), {"": self.executor})

    def kept(self) -> Hardware:
        return Kept(Journal(self.reader, "a")).restored()

    def recorded(self, task: int) -> bool:
        return Journal(self.reader, "a").done((task, "step", "do")) is not None

    async def perform(self, task: int, verb: str, arguments: dict[str, Any]) -> Outcome:
        return await self.node.perform(operation(task, verb, arguments))


@contextmanager
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as directory:
        made = Agent(Path(directory) / "journal.db")
        with closing(made.reader):
            yield made
            made.disk.close()


def operation(task: int, verb: str, arguments: dict[str, Any]) -> Operation:
    return Operation(task, "step", "do", "a", verb, arguments, f"guest/{arguments['guest']}", task)


NAMES = st.sampled_from(["s", "t"])
GUESTS = st.integers(100, 101)
VOLUMES = st.builds("vm-{}-{}".format, GUESTS, st.integers(0, 1))
SPECS = st.fixed_dictionaries(
    {
        "ha": st.booleans(),
        "cpu_milli": st.sampled_from([500, 1000]),
        "memory_mib": st.just(512),
        "version": st.sampled_from(["1.30", "1.31"]),
        "snapshots": st.lists(NAMES, max_size=2),
    }
)
ARGUMENTS = st.fixed_dictionaries(
    {
        "guest": GUESTS,
        "guests": st.lists(GUESTS, max_size=2),
        "spec": SPECS,
        "volumes": st.lists(st.fixed_dictionaries({"id": VOLUMES}), max_size=2),
        "volume": VOLUMES,
        "ports": st.lists(
            st.fixed_dictionaries({"network": NAMES, "mac": st.sampled_from(["02:1", "02:2"])}), max_size=2
        ),
        "name": NAMES,
        "snapshots": st.lists(NAMES, max_size=2),
        "version": st.sampled_from(["1.30", "1.31"]),
        "remove": st.booleans(),
        "running": st.booleans(),
        "boot": st.integers(1, 3),
        "within_s": st.just(1),
    }
)
"""Whatever any verb asks for."""
MAKING = [
    "volume.create",
    "vm.prepare",
    "vm.switch",
    "vcluster.define",
    "vcluster.start",
    "agent.open",
    "agent.restart",
]
"""After these other verbs are seldom refused."""
STEPS = st.one_of(
    st.tuples(st.sampled_from(sorted(VERBS) + MAKING * 8), ARGUMENTS, st.sampled_from([0] * 6 + [1, 2, 3, 4, 5, 6])),
    st.tuples(st.sampled_from(["leased", "expired", "restart", "power loss", "deaf"]), st.just({}), st.just(0)),
)
"""(verb or what befalls the node, arguments, which statement finds the disk full or 0)."""


WRITE_NOTHING = ("node.look", "leased", "expired")
"""These may succeed without a change: what a full disk left undone is mended by the next one that writes."""


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=10, max_size=30))
def test_what_is_on_disk_is_what_is_there(steps: list[tuple[str, dict[str, Any], int]]) -> None:
    """After all that may happen; where the disk was full it is what was there before, and the next success mends it."""

    async def run(made: Agent) -> None:
        behind = False
        for task, (what, arguments, fails_at) in enumerate(steps, 1):
            before = made.kept()
            if what in VERBS:
                made.watched.fails_at, made.watched.commits = fails_at, 0
                outcome = await made.perform(task, what, arguments)
                made.watched.fails_at = 0
                assert made.watched.commits <= 1, "effect and record are in one transaction"
                assert made.recorded(task) == isinstance(outcome, Done)
                if isinstance(outcome, Unknown):
                    made.disk.commit()
                    assert made.kept() == before, (what, outcome)
                    behind = True
                    continue
            else:
                await befall(made, what)
            if behind and what in WRITE_NOTHING and made.kept() == before:
                continue
            assert made.kept() == made.executor.hardware, what
            behind = False

    with agent() as made:
        asyncio.run(run(made))


def test_half_of_an_operation_is_never_on_disk() -> None:
    """Whichever of its statements finds the disk full."""
    arguments = {"guest": 100, **WITH}

    async def run(made: Agent) -> None:
        fails_at = 0
        while True:
            fails_at += 1
            made.watched.fails_at = fails_at
            outcome = await made.perform(1, "vm.prepare", arguments)
            made.watched.fails_at = 0
            if isinstance(outcome, Done):
                break
            await made.perform(1000 + fails_at, "node.look", {"guest": 200, "guests": []})
            assert made.kept() == Hardware()
        # BEGIN, fence, four things and the mark, record, COMMIT.
        assert fails_at == 10
        assert made.kept() == made.executor.hardware != Hardware()

    with agent() as made:
        asyncio.run(run(made))


def test_an_operation_whose_fence_was_lost_is_not_done() -> None:
    """Another operation finds the disk full while it is made, and their transaction is one."""

    async def run(made: Agent) -> None:
        made.executor._work_s = 0.05
        making = asyncio.create_task(made.perform(1, "volume.create", {"guest": 100, **WITH}))
        await asyncio.sleep(0)
        made.watched.fails_at = 1
        assert isinstance(await made.perform(2, "node.look", {"guest": 101, "guests": []}), Unknown)
        assert isinstance(await making, Unknown)
        assert not made.recorded(1)
        assert await made.perform(1, "volume.create", {"guest": 100, **WITH}) == Done({})
        assert Journal(made.reader, "a").newest("guest/100") == 1
        assert made.kept() == made.executor.hardware

    with agent() as made:
        asyncio.run(run(made))


async def befall(made: Agent, what: str) -> None:
    hardware = made.executor.hardware
    match what:
        case "leased" | "expired":
            # The node says nothing to its executor if it is so already, and what failed before is still to be kept.
            await made.node.lead(what == "leased")
            await made.executor.restart_ha() if what == "leased" else await made.executor.end_ha()
        case "power loss":
            hardware.power_loss()
            await made.executor.end_ha()
        case "deaf":
            hardware.deaf ^= {100}
            await made.executor.restart_ha()
        case "restart":
            expected = made.kept()
            expected.end_ha()
            made.disk.close()
            made.start()
            assert made.executor.hardware == expected
            await made.executor.end_ha()
    await made.disk.written()


LIFE: list[tuple[str, dict[str, Any]]] = [
    ("volume.create", {}),
    ("vm.define", {}),
    ("port.plug", {}),
    ("vm.start", {}),
    ("vm.snapshot", {}),
    ("vm.rollback", {}),
    ("vm.start", {}),
    ("vm.resize", {"spec": {"ha": True, "cpu_milli": 2000, "memory_mib": 512}}),
    ("vm.reboot", {"boot": 9}),
    ("agent.start", {}),
    ("vm.discard", {}),
]
"""Of a VM; an operation that cannot be is among them."""
WITH = {
    "spec": {"ha": True, "cpu_milli": 1000, "memory_mib": 512},
    "volumes": [{"id": "root"}],
    "ports": [{"network": "lan", "mac": "02:1"}],
    "name": "s",
}


def crowd(many: int) -> Hardware:
    """Other guests, with a thing of every kind each."""
    others = range(1000, 1000 + many)
    found = Hardware(ha=set(others), deaf=set(others), ended=dict.fromkeys(others, ("machines", "running")))
    found.volumes = {f"vm-{guest}": guest for guest in others}
    found.snapshots = {f"{guest}/s": "taken" for guest in others}
    found.ports = {(guest, "lan"): "02:2" for guest in others}
    for kind in ("machines", "sizes", "planes", "versions", "endpoints", "workspaces", "sandboxes"):
        setattr(found, kind, dict.fromkeys(others, "defined"))
    found.boots = dict.fromkeys(others, 1)
    return found


def writes(many: int, leased: bool) -> list[tuple[int, int]]:
    """What each operation of a life writes, the journal's own rows included: (rows, bytes)."""

    async def run() -> list[tuple[int, int]]:
        disk = Disk(":memory:")
        Kept(Journal(disk, "a")).keep(crowd(many))
        disk.commit()
        seen = watched(disk)
        node = Led("a", Journal(disk, "a"), {"": Simulated(Journal(disk, "a"))})
        node.has_lease = leased
        found = []
        for task, (verb, arguments) in enumerate(LIFE, 1):
            seen.rows = seen.bytes = 0
            outcome = await node.perform(operation(task, verb, {"guest": 100, **WITH, **arguments}))
            assert isinstance(outcome, Refused if verb == "agent.start" else Done)
            found.append((seen.rows, seen.bytes))
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("leased", [True, False])
def test_what_an_operation_writes_is_the_same_among_a_thousand_guests(leased: bool) -> None:
    alone = writes(0, leased)
    assert writes(1000, leased) == alone
    # The row of the operation, its fence, and a row a thing that changed.
    assert max(rows for rows, _ in alone) <= 2 + 8
    assert max(size for _, size in alone) < 500


def act(number: int) -> tuple[str, dict[str, Any]]:
    """The operation with this number, of lives one after the other of nine guests in turn."""
    turn, which = divmod(number - 1, 9)
    verb, arguments = LIFE[turn % len(LIFE)]
    guest = 100 + which
    return verb, {"guest": guest, **WITH, "volumes": [{"id": f"vm-{guest}"}], **arguments}


def work(path: Path) -> None:
    """Perform the operations one after the other for ever, from the first that is not recorded on, and say each."""

    async def run() -> None:
        journal = Journal(Disk(path), "a")
        node = Led("a", journal, {"": Simulated(journal)})
        await node.lead(True)
        number = 0
        while True:
            number += 1
            await node.perform(operation(number, *act(number)))
            print(number, flush=True)

    asyncio.run(run())


def test_kill_9_leaves_what_the_recorded_operations_made(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    told = 0
    for runs in range(1, 5):
        code = f"from pathlib import Path; from tests.server.test_simulated import work; work(Path({str(path)!r}))"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            told = int(line)
            if told >= 61 * runs:
                child.kill()
        child.wait()
        with closing(Disk(path)) as disk:
            assert disk.read("SELECT MAX(task) FROM operation")[0] >= last_made(told)
            recorded = {task for (task,) in disk.all("SELECT task FROM operation")}
            assert Kept(Journal(disk, "a")).restored() == replayed(recorded)


def last_made(told: int) -> int:
    """The last operation up to this one that is not refused."""
    return next(number for number in range(told, 0, -1) if act(number)[0] != "agent.start")


def replayed(recorded: set[int]) -> Hardware:
    hardware = Hardware()
    for number in range(1, max(recorded) + 1):
        verb, arguments = act(number)
        try:
            VERBS[verb](hardware, arguments)
        except Cannot:
            assert number not in recorded
        else:
            assert number in recorded
    return hardware
