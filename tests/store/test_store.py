"""One contract, three stores: transactions, counters, revisions, the change log, and the queries of an engine."""

import json
import threading
from typing import Any

from gpve_sim.world.trial import node_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.tasks.flows import FLOWS
from gpve.tasks.lease import beat
from gpve.tasks.ledger import Looks, Tx, Work
from gpve.tasks.records import Decided
from gpve.tasks.submit import request, submit
from gpve.tasks.tables import COUNTERS
from gpve.tasks.worker import Rules, Worker
from gpve.world.turn import turn


def write(store: Any, *runs: Any) -> list[Any]:
    return store.transact([Work(run) for run in runs])


def network(name: str) -> dict[str, Any]:
    return {"name": name, "kind": "bridge", "task": None}


def test_what_is_put_is_there_and_what_is_deleted_is_not(store):
    row = node_row("a", 100, 200)
    assert write(store, lambda tx: tx.put("node", row)) == [None]
    (found,) = store.rows("node")
    assert found == {**row, "revision": 1}
    write(store, lambda tx: tx.put("node", {**tx.get("node", "a"), "open": False, "used_cpu_milli": 1}))
    (found,) = store.rows("node", open=False)
    assert (found["used_cpu_milli"], found["revision"], found["open"]) == (1, 2, False)
    write(store, lambda tx: tx.delete("node", "a"))
    assert store.rows("node") == []
    assert write(store, lambda tx: tx.get("node", "a")) == [None]


def test_works_of_one_transaction_see_each_other(store):
    def first(tx: Tx) -> int:
        tx.put("network", network("lan"))
        return tx.revision

    def second(tx: Tx) -> Any:
        tx.delete("network", "lan")
        tx.put("network", network("wan"))
        return tx.revision, [row["name"] for row in tx.where("network")], tx.get("network", "lan")

    assert write(store, first, second) == [1, (1, ["wan"], None)]
    assert [row["name"] for row in store.rows("network")] == ["wan"]


def test_a_work_that_raises_leaves_nothing_and_disturbs_nobody(store):
    write(store, lambda tx: tx.put("network", network("old")))

    def good(name: str) -> Any:
        return lambda tx: tx.put("network", network(name))

    def bad(tx: Tx) -> None:
        tx.put("network", network("half"))
        tx.put("network", {**network("old"), "kind": "changed"})
        tx.delete("network", "one")
        raise RuntimeError("on purpose")

    answers = write(store, good("one"), bad, good("two"))
    assert [type(answer).__name__ for answer in answers] == ["NoneType", "RuntimeError", "NoneType"]
    assert {row["name"]: row["kind"] for row in store.rows("network")} == dict.fromkeys(("old", "one", "two"), "bridge")


def test_an_unknown_column_is_refused(store):
    (answer,) = write(store, lambda tx: tx.put("network", {**network("x"), "colour": "red"}))
    assert isinstance(answer, ValueError)
    assert store.rows("network") == []


def test_counters_begin_where_the_table_says_and_never_repeat(store):
    for name, first in COUNTERS.items():
        if name != "revision":
            assert write(store, lambda tx, n=name: [tx.take(n), tx.take(n)]) == [[first, first + 1]]
    write(store, lambda tx: tx.put("network", network("lan")))
    assert write(store, lambda tx: tx.take("guest")) == [102]


def test_numbers_of_eight_threads_are_all_different(database_store):
    taken: list[tuple[int, int]] = []

    def work() -> None:
        for _ in range(25):
            taken.extend(database_store.transact([Work(lambda tx: (tx.take("epoch"), tx.revision))]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in taken) == list(range(1, 201))


def test_increments_of_many_threads_are_none_lost(database_store):
    write(database_store, lambda tx: tx.put("node", node_row("a")))

    def one_more(tx: Tx) -> None:
        row = tx.get("node", "a")
        assert row is not None
        tx.put("node", {**row, "version": row["version"] + 1})

    threads = [threading.Thread(target=lambda: [write(database_store, one_more) for _ in range(25)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database_store.rows("node")[0]["version"] == 200
    revisions = [row["revision"] for row in database_store.rows("change")]
    assert revisions == sorted(set(revisions))


def test_the_change_log_tells_what_watchers_hear(store):
    write(store, lambda tx: tx.put("network", network("lan")), lambda tx: tx.put("node", node_row("a")))
    write(store, lambda tx: tx.delete("network", "lan"), lambda tx: tx.put("counter", {"name": "x", "value": 1}))
    told = [(row["revision"], row["table_name"], json.loads(row["row_key"])) for row in store.rows("change")]
    assert told == [(1, "network", ["lan"]), (1, "node", ["a"]), (2, "network", ["lan"])]
    data = [row["data"] for row in store.rows("change")]
    assert json.loads(data[0])["kind"] == "bridge"
    assert data[2] is None


def test_names_differ_by_case_and_by_every_letter(store):
    names = ["lan", "LAN", "Lan", "län", "ланка", "🦊"]
    write(store, *(lambda tx, n=name: tx.put("network", network(n)) for name in names))
    assert {row["name"] for row in store.rows("network")} == set(names)
    assert write(store, lambda tx: [tx.get("network", name)["name"] for name in names]) == [names]


def test_long_texts_and_hostile_ones_come_back_as_they_were(store):
    text = json.dumps({"x": "'; DROP TABLE task; -- \\ \" % ? \0".replace("\0", ""), "long": "é" * 200_000})
    write(store, lambda tx: tx.put("node", {**node_row("a"), "labels": text}))
    assert store.rows("node")[0]["labels"] == text


def create(name: str, project: str = "default") -> Any:
    wish = request(FLOWS, "vm_create", {"name": name, "cpu_milli": 1, "memory_mib": 1}, project=project)
    return lambda tx: submit(tx, wish)


def test_claimable_takes_projects_in_turn(store):
    for at in range(5):
        write(store, create(f"many-{at}", "a"))
    write(store, create("one", "b"))
    write(store, create("two", "c"))
    assert store.claimable("me", FLOWS.versions, 10) == [1, 6, 7, 2, 3, 4, 5]
    assert store.claimable("me", FLOWS.versions, 3) == [1, 6, 7]
    assert store.claimable("me", [("vm_create", 1, "another hash")], 10) == []


class NoNodes:
    """A cluster without nodes, and a scheduler that knows of one all the same: what is placed there finds it gone."""

    def holds(self, node: str) -> bool:
        return False

    def names(self) -> list[str]:
        return []

    def send(self, operation: Any, answer: Any) -> None:
        raise AssertionError("no node could get it")

    def decide(self, questions: Any, nodes: Any) -> list[Decided]:
        return [Decided("gone", 0, {}) for _ in questions]


def test_an_engine_with_its_hands_full_claims_nothing(store):
    """What is submitted at once may be more than it takes; then there is work that it wants, and less than no room."""
    worker = Worker("a", "a/1", FLOWS, Rules(most=2, sweep_s=1000.0))
    told: list[Any] = []
    for at in range(5):
        body = {"name": f"own-{at}", "cpu_milli": 1, "memory_mib": 1, "networks": []}
        worker.submit(request(FLOWS, "vm_create", body), told.append)
    nodes = NoNodes()
    turn(worker, store, nodes, nodes, 0.0)
    assert len(told) == 5
    assert worker.room < 0
    write(store, create("others"))
    worker.wants_work = True
    turn(worker, store, nodes, nodes, 0.1)
    assert [row["id"] for row in store.rows("task", owner=None)] == [6]


def own(task: int, owner: str | None, **more: Any) -> Any:
    return lambda tx: tx.put("task", {**tx.get("task", task), "owner": owner, **more})


def test_claimable_leaves_what_lives_and_what_waits_for_locks(store):
    for at in range(6):
        write(store, create(f"vm-{at}"))
    write(store, lambda tx: beat(tx, "alive", "x", 3600.0))
    write(store, lambda tx: beat(tx, "dead", "y", -1.0))
    write(store, own(1, "alive"), own(2, "dead"), own(3, "gone"), own(4, "me"))
    write(store, own(5, None, status="done"), own(6, None, poison="broken"))
    assert store.claimable("me", FLOWS.versions, 10) == [2, 3]
    write(store, create("later"))
    for resource, shared, task in (("x", True, 2), ("x", True, 3), ("y", True, 3), ("y", False, 7)):
        row = {"resource": resource, "shared": shared, "task": task}
        write(store, lambda tx, row=row: tx.put("lock", row))
    assert store.claimable("me", FLOWS.versions, 10) == [2, 3]
    write(store, lambda tx: tx.put("task", {**tx.get("task", 7), "cancel": "no more"}))
    assert store.claimable("me", FLOWS.versions, 10) == [2, 3, 7]
    write(store, lambda tx: tx.put("task", {**tx.get("task", 7), "cancel": None}))
    write(store, lambda tx: tx.delete("lock", "y", 3))
    assert store.claimable("me", FLOWS.versions, 10) == [2, 3, 7]


def test_the_outbox_by_who_owns_and_who_carries(store):
    write(store, create("vm-0"), create("vm-1"))
    write(store, own(1, "me"), own(2, "other"))

    def row(task: int, node: str, relay: bool, outcome: str | None) -> dict[str, Any]:
        sent = {"task": task, "step": "start", "direction": "do", "node": node, "resource": "guest/1", "epoch": 1}
        return {**sent, "verb": "vm.start", "arguments": "{}", "at": 0.0, "relay": relay, "outcome": outcome}

    write(store, lambda tx: tx.put("outbox", row(1, "a", True, '{"done":{}}')))
    write(store, lambda tx: tx.put("outbox", {**row(2, "a", True, None)}))
    write(store, lambda tx: tx.put("outbox", {**row(2, "b", True, None), "step": "define"}))
    write(store, lambda tx: tx.put("outbox", {**row(2, "a", False, None), "step": "ports"}))
    assert [(r["task"], r["step"]) for r in store.answered("me")] == [(1, "start")]
    assert store.answered("other") == []
    assert [(r["task"], r["step"]) for r in store.undelivered(["a"], "me")] == [(2, "start")]
    assert [(r["task"], r["step"]) for r in store.undelivered(["a", "b"], "me")] == [(2, "define"), (2, "start")]
    assert store.undelivered([], "me") == []


def test_rows_of_a_number_just_given_are_those_of_this_transaction(store):
    def run(tx: Tx) -> tuple[list[str], list[str]]:
        port = {"network": "lan", "mac": "02:00"}
        old, new = tx.take("guest"), tx.take("guest")
        tx.put("port", {**port, "guest": new})
        return [row["mac"] for row in tx.where("port", guest=old)], [row["mac"] for row in tx.where("port", guest=new)]

    assert write(store, run) == [([], ["02:00"])]
    number = store.rows("port")[0]["guest"]
    assert write(store, lambda tx: [row["mac"] for row in tx.where("port", guest=number)]) == [["02:00"]]


ACTIONS = st.lists(
    st.lists(
        st.tuples(
            st.lists(
                st.one_of(
                    st.tuples(st.just("put"), st.sampled_from("abcd"), st.integers(0, 3)),
                    st.tuples(st.just("delete"), st.sampled_from("abcd"), st.just(0)),
                    st.tuples(st.just("get"), st.sampled_from("abcd"), st.just(0)),
                    st.tuples(st.just("where"), st.just(""), st.integers(0, 3)),
                ),
                max_size=5,
            ),
            st.booleans(),
            st.lists(st.integers(0, 3), max_size=2),
        ),
        max_size=4,
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=ACTIONS)
def test_any_script_does_the_same_in_every_store(store, script):
    """Against dictionaries: puts, deletes, reads and failures, in any order, within and across transactions.

    Some works say beforehand which kinds they, or others, will ask for.
    """
    write(store, *(lambda tx, n=name: tx.delete("network", n) for name in "abcd"))
    model: dict[str, str] = {}
    for transaction in script:
        works, expected = [], []
        for actions, fails, announced in transaction:
            after, seen = dict(model), []
            for action, name, kind in actions:
                match action:
                    case "put":
                        after[name] = str(kind)
                    case "delete":
                        after.pop(name, None)
                    case "get":
                        seen.append(after.get(name))
                    case "where":
                        seen.append(sorted(n for n, k in after.items() if k == str(kind)))

            def run(tx: Tx, actions: Any = actions, fails: bool = fails) -> list[Any]:
                seen: list[Any] = []
                for action, name, kind in actions:
                    match action:
                        case "put":
                            tx.put("network", {"name": name, "kind": str(kind), "task": None})
                        case "delete":
                            tx.delete("network", name)
                        case "get":
                            row = tx.get("network", name)
                            seen.append(None if row is None else row["kind"])
                        case "where":
                            seen.append([row["name"] for row in tx.where("network", kind=str(kind))])
                if fails:
                    raise RuntimeError
                return seen

            looks = Looks(ranges=[("network", {"kind": str(kind)}) for kind in announced])
            works.append(Work(run, lambda looks=looks: looks))
            expected.append(RuntimeError if fails else seen)
            model = model if fails else after
        answers = store.transact(works)
        assert [type(a) if isinstance(a, Exception) else a for a in answers] == expected
    assert {row["name"]: row["kind"] for row in store.rows("network")} == model
