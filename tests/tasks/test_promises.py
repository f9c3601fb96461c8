"""The promises of docs/guarantees.md that a sweep alone does not show. Each test names the number of its promise."""

import json
import threading
from typing import Any

import pytest
from gpve_sim.world.engine import Crash, SimEngine, World
from gpve_sim.world.faults import Fault, Injection
from gpve_sim.world.nodes import MemoryJournal
from gpve_sim.world.trial import node_row, run_trial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks import flow as flow_module
from gpve.tasks.audit import audit
from gpve.tasks.errors import BadBody, Forbidden, KeyReused, NotFound, UnknownFlow
from gpve.tasks.flow import Flow, FlowError, Flows
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Work
from gpve.tasks.operations import STALE, Make, admit
from gpve.tasks.outcome import Done, Refused
from gpve.tasks.submit import cancel, request, resume, submitting
from gpve.tasks.worker import Rules
from tests.store.conftest import DATABASES, address_of
from tests.tasks.small_flows import SMALL, five, step
from tests.tasks.small_flows import flow as small
from tests.tasks.worlds import kinds, make_world, placer, run, statuses, submit, volumes

BODY = {"name": "web", "cpu_milli": 1000, "memory_mib": 512}


def ask(world: World, run: Any) -> Any:
    (answer,) = world.store.transact([Work(run)])
    return answer


# 1, 2: submitting


@pytest.fixture(params=DATABASES)
def address(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return address_of(request.param, request, tmp_path)


def filled(address: str) -> SqlStore:
    database = connect(address)
    migrate(database)
    store = SqlStore(database)
    store.transact([Work(lambda tx: tx.put("node", node_row("a"))), Work(lambda tx: tx.take("revision"))])
    return store


class Killed(BaseException):
    """Not an `Exception`: nobody catches it on its way, as nobody catches kill -9."""


def test_1_killed_at_every_statement_of_a_submission(tmp_path, monkeypatch):
    """Whatever was said when the process died: all of the submission is there, or nothing."""
    store = filled(f"sqlite:///{tmp_path}/gpve.db")
    work = submitting(request(FLOWS, "vm_create", BODY, key="k"))

    class Cursor:
        def __init__(self, cursor: Any, left: list[int]) -> None:
            self._cursor, self._left = cursor, left

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._cursor, name)
            if not name.startswith("execute"):
                return found

            def execute(*arguments: Any) -> Any:
                if self._left[0] == 0:
                    raise Killed
                self._left[0] -= 1
                return found(*arguments)

            return execute

    from gpve.store import tx as transactions

    real = transactions.SqlTx.__init__
    for statements in range(100):
        left = [statements]

        def begin(self: Any, cursor: Any, made: Any, left: list[int] = left) -> None:
            real(self, Cursor(cursor, left), made)

        monkeypatch.setattr(transactions.SqlTx, "__init__", begin)
        try:
            store.transact([work])
        except Killed:
            assert store.rows("task") == store.rows("guest") == store.rows("idempotency") == store.rows("lock") == []
            assert audit(store.rows, FLOWS) == []
            continue
        break
    assert statements > 8
    assert len(store.rows("task")) == len(store.rows("guest")) == len(store.rows("idempotency")) == 1
    assert audit(store.rows, FLOWS) == []


def test_2_one_key_is_one_task_however_many_submit(address):
    filled(address)
    answers: list[Any] = []

    def submit_it() -> None:
        store = SqlStore(connect(address))
        answers.extend(store.transact([submitting(request(FLOWS, "vm_create", BODY, key="same"))]))

    threads = [threading.Thread(target=submit_it) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = SqlStore(connect(address))
    (task,) = store.rows("task")
    assert [answer["id"] for answer in answers] == [task["id"]] * 32
    other = request(FLOWS, "vm_create", {**BODY, "cpu_milli": 2000}, key="same")
    (answer,) = store.transact([submitting(other)])
    assert isinstance(answer, KeyReused)
    assert f"task {task['id']}" in str(answer)
    assert len(store.rows("task")) == len(store.rows("guest")) == 1


# 4 to 9: steps and their undo


def test_7_a_tombstone_refuses_what_comes_late_and_a_stale_epoch_is_refused():
    from gpve.tasks.advance import Operation

    journal = MemoryJournal()

    def operation(direction: Any, epoch: int, **more: Any) -> Operation:
        return Operation(1, "one", direction, "a", "vm.start", {}, "guest/1", epoch, **more)

    assert admit(journal, operation("undo", 5)) == Make(cut=True)
    assert isinstance(admit(journal, operation("do", 5)), Refused)
    assert admit(journal, operation("do", 4)) == Refused(STALE)
    assert admit(journal, operation("undo", 6, tombstone=True)) == Done()
    assert admit(journal, operation("undo", 6)) == Done()
    assert admit(journal, operation("undo", 5)) == Refused(STALE)


def refuse_undo(world: World, name: str, times: int) -> None:
    """Let the undo of a step fail so many times."""
    send = world.nodes.send
    left = [times]

    def sent(operation, answer):
        if (operation.step, operation.direction) == (name, "undo") and left[0] > 0:
            left[0] -= 1
            answer(operation, Refused("the disk is on fire", again=True))
            return
        send(operation, answer)

    world.nodes.send = sent  # type: ignore[method-assign]


@pytest.mark.parametrize("times", [1, 3, 5])
def test_8_undo_is_tried_again(times):
    world = make_world([Injection("last", "do", Fault.REFUSE)])
    refuse_undo(world, "left", times)
    submit(world, "branches", {})
    world.start(1)
    assert run(world) == []
    assert statuses(world) == ["undone"]
    assert volumes(world) == []


def test_8_what_cannot_be_undone_is_stuck_and_the_other_branches_are_undone():
    world = make_world([Injection("last", "do", Fault.REFUSE)])
    refuse_undo(world, "left", 10**9)
    submit(world, "branches", {"alone": ["x"]})
    world.start(1)
    assert run(world) == []
    assert statuses(world) == ["stuck"]
    (alarm,) = world.store.rows("alarm")
    assert "left: the disk is on fire" in alarm["text"]
    assert [row["resource"] for row in world.store.rows("lock")] == ["x"]
    assert volumes(world) == ["1-left", "1-root"], "right is undone; root is not: left needs it"
    assert isinstance(ask(world, lambda tx: cancel(tx, 1, "please")), dict), "noted, and of no effect"


def test_8_resume_is_the_only_way_out():
    world = make_world([Injection("last", "do", Fault.REFUSE)])
    refuse_undo(world, "left", 25)
    submit(world, "branches", {})
    world.start(1)
    while statuses(world) != ["stuck"]:
        world.env.run(world.env.now + 10)
    assert isinstance(ask(world, lambda tx: resume(tx, 2)), NotFound)
    ask(world, lambda tx: resume(tx, 1))
    for _ in range(20):
        world.env.run(world.env.now + 50)
        if statuses(world) == ["stuck"]:
            ask(world, lambda tx: resume(tx, 1))
    assert run(world) == []
    assert statuses(world) == ["undone"]
    assert volumes(world) == []
    assert world.store.rows("alarm") == []
    answer = ask(world, lambda tx: resume(tx, 1))
    assert isinstance(answer, Forbidden)
    assert "undone" in str(answer)


# 10 to 14: recovery, fencing, clocks, locks


@pytest.mark.parametrize("name", ["vm_create", "vm_migrate", "agent_start"])
@pytest.mark.parametrize("plan", [(), [Injection(step, "do", Fault.REFUSE) for step in ("start", "switch")]])
def test_10_the_engine_dies_at_every_transaction(name, plan, monkeypatch):
    """Before and after the k-th transaction of the first engine, for every k."""
    real = SimEngine.transact
    for before in (True, False):
        # What dies before its first transaction was never told of the task.
        for k in range(2 if before else 1, 60):
            count = 0
            died = False

            def transact(self, works, k=k, before=before):
                nonlocal count, died
                count += 1
                if count == k and before:
                    died = True
                    raise Crash
                results = real(self, works)
                if count == k:
                    died = True
                    raise Crash
                return results

            monkeypatch.setattr(SimEngine, "transact", transact)
            trial = run_trial(name, plan, placer, k)
            assert trial.findings == [], f"transaction {k}: {trial.findings}"
            assert trial.status in ("done", "undone"), f"transaction {k}: {trial.status}"
            if not died:
                break
        assert k > 5


def test_11_a_bad_row_stops_no_other_task():
    """A log with a hole, one with a kind of event from the future, a body that is no JSON: each alone is set aside."""
    world = make_world()
    for _ in range(7):
        submit(world, "five", {})
    events = world.store.tables["event"]
    events[2, 0] = {**events[2, 0], "kind": "transmogrified"}
    events[3, 0] = {**events[3, 0], "data": "{"}
    events[4, 0] = {**events[4, 0], "data": "{}"}
    del events[5, 0]
    tasks = world.store.tables["task"]
    tasks[6,] = {**tasks[6,], "body": "?"}
    world.start(2)
    findings = run(world)
    assert [statuses(world)[at] for at in (0, 6)] == ["done", "done"]
    assert [row["id"] for row in world.store.rows("task") if row["poison"]] == [2, 3, 4, 5, 6]
    assert sorted(row["task"] for row in world.store.rows("alarm")) == [2, 3, 4, 5, 6]
    assert findings == []
    assert isinstance(ask(world, lambda tx: resume(tx, 2)), dict)


def test_11_the_same_name_twice_is_two_incarnations():
    """An engine that comes back under its old name owns nothing of what it owned; it claims like anybody else."""
    world = make_world([Injection("s2", "do", Fault.CRASH_BEFORE_RECORD)])
    submit(world, "five", {})
    world.start(1)
    assert run(world) == []
    claimed = [json.loads(row["data"])["engine"] for row in world.store.rows("event") if row["kind"] == "claimed"]
    assert len(set(claimed)) == 2
    assert {name.split("/")[0] for name in claimed} == {"engine-0"}
    assert statuses(world) == ["done"]


def test_12_an_owner_that_was_only_slow_finds_itself_fenced():
    world = make_world([Injection("s1", "do", Fault.LEASE_STOLEN)], audited=True)
    submit(world, "five", {})
    world.start(2)
    assert run(world) == []
    assert statuses(world) == ["done"]
    epochs = [row["epoch"] for row in world.store.rows("event", task=1)]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 3, "submitted, the first owner's, the second's"
    assert [twice for node in world.nodes.by_name.values() for twice in node.made_twice()] == []


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
@pytest.mark.parametrize("name", ["vm_create", "vm_migrate"])
def test_13_the_clock_of_the_store_jumps_an_hour(name, jump):
    """At every moment of a run: deadlines may pass, leases may seem to end, and nothing goes wrong."""

    class Jumping(World):
        when = 0.0

        def __init__(self, env: Any, store: Any, *more: Any) -> None:
            super().__init__(env, store, *more)
            store._clock = lambda: env.now + (jump if env.now > Jumping.when else 0.0) + 10_000.0

    outcomes = set()
    for tenth in range(1, 14):
        Jumping.when = tenth * 0.07
        trial = run_trial(name, (), placer, tenth, make_world=Jumping)
        assert trial.findings == []
        outcomes.add(trial.status)
    assert outcomes <= {"done", "undone"}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    wishes=st.lists(st.lists(st.tuples(st.sampled_from("wxyz"), st.booleans()), max_size=4), min_size=1, max_size=12),
    dies=st.sampled_from([None, *(f for f in (Fault.CRASH_BEFORE_SEND, Fault.CRASH_AFTER_RECORD, Fault.LEASE_STOLEN))]),
)
def test_14_locks_first_come_first_served(wishes, dies):
    """Random sets of locks, alone and together, and an engine that dies: no two at once (the audit looks), all end."""
    world = make_world([] if dies is None else [Injection("one", "do", dies)], audited=True)
    for wish in wishes:
        held = dict(wish)
        alone = [name for name, shared in held.items() if not shared]
        submit(world, "hold", {"alone": alone, "together": [name for name in held if name not in alone]})
    world.start(2)
    assert run(world) == []
    assert statuses(world) == ["done"] * len(wishes)
    began = {row["task"]: row["revision"] for row in world.store.rows("event") if row["kind"] == "began"}
    for first, wish in enumerate(wishes):
        for later in range(first + 1, len(wishes)):
            mine, other = dict(wish), dict(wishes[later])
            if any(name in other and not (mine[name] and other[name]) for name in mine):
                assert began[first + 1] < began[later + 1]


# 15, 16: cancel and deadlines


def test_15_cancel_while_queued_and_while_waiting_for_a_place():
    world = make_world(flows=FLOWS)
    huge = {**BODY, "cpu_milli": 10**9}
    submit(world, "vm_create", huge)
    world.start(1)
    world.env.run(100)
    (row,) = world.store.rows("task")
    assert row["status"] == "waiting"
    assert row["reason"] == "2 nodes: larger than the whole node"
    ask(world, lambda tx: cancel(tx, 1, "too large"))
    assert run(world) == []
    assert statuses(world) == ["undone"]
    assert world.store.rows("guest") == []
    world = make_world()
    submit(world, "hold", {"alone": ["x"]})
    submit(world, "hold", {"alone": ["x"]})
    ask(world, lambda tx: cancel(tx, 2, "not needed"))
    world.start(1)
    assert run(world) == []
    assert statuses(world) == ["done", "undone"]
    assert kinds(world, 2) == ["submitted", "claimed", "cancel", "closed"]


def test_15_cancel_is_refused_with_a_reason_after_the_commit_point():
    world = make_world([Injection("clean", "do", Fault.LOST)], flows=FLOWS, nodes=("a", "b", "c"))
    from gpve_sim.world.trial import populate

    world.store.tables["node"].clear()
    populate(world, 1)
    world.submitted = submit(world, "vm_migrate", {"guest": 100})  # type: ignore[attr-defined]
    world.start(1)
    while not world.store.rows("task")[0]["committed"]:
        world.env.run(world.env.now + 0.01)
    answer = ask(world, lambda tx: cancel(tx, 1, "please"))
    assert isinstance(answer, Forbidden)
    assert "past its commit point" in str(answer)
    assert run(world) == []
    assert statuses(world) == ["done"]
    answer = ask(world, lambda tx: cancel(tx, 1, "please"))
    assert isinstance(answer, Forbidden)


def test_15_undo_is_shielded_from_cancel():
    world = make_world([Injection("s4", "do", Fault.REFUSE), Injection("s2", "undo", Fault.CANCEL)])
    submit(world, "five", {})
    world.start(1)
    assert run(world) == []
    assert statuses(world) == ["undone"]
    assert volumes(world) == []


def test_16_deadlines_of_step_and_task():
    world = make_world()
    world.nodes.by_name["a"].up = False
    submit(world, "hasty", {})
    world.start(1)
    world.env.run(100)
    (row,) = world.store.rows("task")
    assert row["status"] == "undoing"
    assert row["reason"].startswith("quick: no answer in time")
    world.nodes.by_name["a"].up = True
    assert run(world) == []
    assert statuses(world) == ["undone"]
    world = make_world(flows=Flows([small("slow", step("one"), step("two"), deadline_s=300.0)]))
    world.nodes.by_name["a"].up = False
    submit(world, "slow", {})
    world.start(1)
    world.env.run(400)
    assert "not committed within 300 s" in world.store.rows("task")[0]["reason"]


def test_16_retries_are_spread_by_seed_and_the_same_for_the_same_seed():
    def retries(seed: int) -> list[float]:
        world = make_world([Injection("s0", "do", Fault.REFUSE_ONCE)], rules=Rules(seed=seed))
        for _ in range(3):
            submit(world, "five", {})
        world.start(1)
        assert run(world) == []
        rows = [row for row in world.store.rows("event") if row["kind"] == "refused"]
        return [json.loads(row["data"])["retry_at"] - row["at"] for row in rows]

    assert retries(1) == retries(1)
    assert retries(1) != retries(2)
    assert all(0.3 < wait <= 0.5 for wait in retries(3))


# 17, 18: watching, versions


def test_17_a_watcher_misses_nothing_and_progress_never_falls(address):
    """Four writers; a watcher that reads on from the last revision it saw gets every event, once and in order."""
    store = filled(address)
    seen: list[tuple[int, int, int]] = []
    done = threading.Event()

    def watch() -> None:
        mine, last = SqlStore(connect(address)), 0
        while True:
            over = done.is_set()
            rows = mine.events_since(last, 1000)
            # A revision is whole or not there at all: what follows has a later one.
            seen.extend((row["revision"], row["task"], row["seq"]) for row in rows)
            last = rows[-1]["revision"] if rows else last
            if over and not rows:
                return

    def write(part: int) -> None:
        mine = SqlStore(connect(address))
        for at in range(40):
            wish = request(FLOWS, "vm_create", {**BODY, "name": f"vm-{part}-{at}"})
            mine.transact([submitting(wish)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    writers = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    done.set()
    watcher.join()
    assert seen == sorted(seen)
    assert len(seen) == len(set(seen)) == len(store.rows("event")) == 160


def test_17_progress_never_falls():
    world = make_world([Injection("s3", "do", Fault.REFUSE)])
    submit(world, "five", {})
    world.start(1)
    shown = []
    while not shown or world.store.rows("task")[0]["status"] not in ("done", "undone"):
        world.env.run(world.env.now + 0.05)
        shown.append(world.store.rows("task")[0]["progress"])
    assert shown == sorted(shown)
    assert 0.4 < shown[-1] < 0.8


def test_18_a_task_of_an_unknown_version_stays_visible_and_untouched():
    world = make_world()
    submit(world, "five", {})
    submit(world, "hold", {})
    world.flows = Flows([five])
    world.start(1)
    world.env.run(200)
    assert statuses(world) == ["done", "queued"]
    assert kinds(world, 2) == ["submitted"]
    # Nor is a log guessed at that speaks of things which this version has never heard of.
    event, task = world.store.tables["event"][2, 0], world.store.tables["task"][2,]
    world.store.set("event", (2, 1), {**event, "seq": 1, "kind": "transmogrified"})
    world.store.set("task", (2,), {**task, "seq": 2, "status": "running"})
    assert audit(world.store.rows, world.flows) == []
    assert isinstance(ask(world, lambda tx: cancel(tx, 2, "no")), dict), "noted for the version that knows it"
    world.env.run(400)
    assert kinds(world, 2) == ["submitted", "transmogrified"]


def test_18_the_hash_follows_the_table_not_the_code():
    again = small("five", *(step(f"s{number}") for number in range(5)))
    assert again.table_hash == five.table_hash
    other = small("five", *(step(f"s{number}", deadline_s=1.0) for number in range(5)))
    assert other.table_hash != five.table_hash


# 22, 24: many tasks, no hints


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.full)])
def test_22_bounded_fair_and_never_blocked_by_a_poisoned_task(count):
    """One project floods, another submits one task: it need not wait for the flood. Some tasks cannot be read."""
    world = make_world(rules=Rules(most=20, lease_s=20.0, sweep_s=1.0))
    for _ in range(count):
        submit(world, "hold", {}, project="flood")
    submit(world, "hold", {}, project="small")
    events = world.store.tables["event"]
    for task in range(1, 30, 3):
        events[task, 0] = {**events[task, 0], "data": "broken"}
    world.start(1)
    most = 0
    while world.store.rows("task", id=count + 1)[0]["status"] != "done":
        world.env.run(world.env.now + 0.05)
        most = max(most, len(world.engines[0].worker))
    assert sum(row["status"] == "done" for row in world.store.rows("task")) < 100
    assert most <= 20
    assert run(world, until=10 * count) == []
    assert sum(row["status"] == "done" for row in world.store.rows("task")) == count + 1 - 10


def test_24_nothing_is_told_and_everything_is_found():
    """Tasks, cancellations and capacity come by way of the store alone, and a task is taken without a hint."""
    world = make_world(flows=FLOWS, nodes=("a",))
    world.start(2)
    fills = {**BODY, "cpu_milli": 16_000}
    submit(world, "vm_create", {**fills, "name": "one"})
    world.env.run(60)
    submit(world, "vm_create", {**fills, "name": "two"})
    world.env.run(120)
    assert statuses(world) == ["done", "waiting"]
    ask(world, lambda tx: tx.put("node", {**node_row("b"), "version": 0}))
    for engine in world.engines:
        world.nodes.by_name.setdefault("b", type(world.nodes.by_name["a"])("b"))
        assert engine.holds("b")
    assert run(world) == []
    assert statuses(world) == ["done", "done"]


def test_24_operations_reach_nodes_that_only_another_engine_talks_to():
    world = make_world(flows=FLOWS, audited=True)
    world.engines.append(SimEngine(world, "left", frozenset("a")))
    world.engines.append(SimEngine(world, "right", frozenset("b")))
    for at in range(6):
        submit(world, "vm_create", {**BODY, "name": f"vm-{at}", "node": "ab"[at % 2]})
    assert run(world) == []
    assert statuses(world) == ["done"] * 6
    carried = {row["task"] for row in world.store.rows("event") if row["kind"] == "done"}
    assert carried == set(range(1, 7))
    assert world.store.rows("outbox") == []


# bad input


@pytest.mark.parametrize(
    ("name", "body", "kind", "says"),
    [
        ("vm_craete", {}, UnknownFlow, "vm_create"),
        ("vm_create", {**BODY, "colour": "red"}, BadBody, "colour"),
        ("vm_create", {**BODY, "cpu_milli": -1}, BadBody, "cpu_milli"),
        ("vm_create", {**BODY, "cpu_milli": "1000"}, BadBody, "cpu_milli"),
        ("vm_create", {**BODY, "disks": [{"size_gib": 0}]}, BadBody, "disks.0.size_gib"),
        ("vm_create", {**BODY, "name": "../etc"}, BadBody, "name"),
        ("vm_create", {"name": "x"}, BadBody, "cpu_milli"),
    ],
)
def test_bad_bodies(name, body, kind, says):
    with pytest.raises(kind, match=says):
        request(FLOWS, name, body)


@pytest.mark.parametrize("key", ["", "two words", "x" * 129, "naïve"])
def test_bad_keys(key):
    with pytest.raises(BadBody, match="idempotency key"):
        request(FLOWS, "vm_create", BODY, key=key)


def test_what_cannot_be_is_refused_and_nothing_is_written():
    world = make_world(flows=FLOWS)
    ask(world, lambda tx: tx.put("quota", {**QUOTA, "cpu_milli_limit": 1500}))
    submit(world, "vm_create", BODY)

    def picture() -> Any:
        return {table: dict(rows) for table, rows in world.store.tables.items()}

    before = picture()
    for name, body, says in (
        ("vm_create", {**BODY, "name": "other"}, "project 'default' has 1000 of 1500 cpu_milli in use; 1000 more"),
        ("vm_create", BODY, "the name of guest 100"),
        ("vm_create", {**BODY, "name": "o", "cpu_milli": 1, "node": "nowhere"}, "no node nowhere"),
        ("vm_create", {**BODY, "name": "o", "cpu_milli": 1, "networks": ["lan"]}, "no network lan"),
        (
            "vm_migrate",
            {"guest": 100},
            "not while it is creating .task 1.; allowed now: cancel task 1, wait for its end",
        ),
        ("vm_migrate", {"guest": 999}, "no vm 999"),
        ("agent_start", {"guest": 100}, "no agent 100"),
    ):
        with pytest.raises((Forbidden, NotFound, Exception), match=says):
            submit(world, name, body)
        assert picture() == before, says


QUOTA = {"project": "default", "guests": 0, "cpu_milli": 0, "memory_mib": 0, "guests_limit": None}
QUOTA |= {"cpu_milli_limit": None, "memory_mib_limit": None}


def test_flows_that_make_no_sense_are_refused():
    for steps, says in (
        ([step("a"), step("a")], "two steps of one name"),
        ([step("a", needs=("b",)), step("b")], "needs 'b', which does not stand before it"),
        ([flow_module.Step("a", step("a").do)], "has no undo"),
        ([step("a", commit=True), step("b", commit=True)], "more than one commit point"),
        ([step("a"), step("b", needs=("a",), commit=True), step("c", needs=("a",))], "neither before nor after"),
    ):
        with pytest.raises(FlowError, match=says):
            small("bad", *steps)
    assert isinstance(SMALL.newest("five"), Flow)
