"""Closed tasks are forgotten after their time; whoever watches from before is told so."""

import pytest
from gpve_sim.world.trial import node_row

from gpve.tasks.flows import FLOWS
from gpve.tasks.ha import declare_dead, renew
from gpve.tasks.ledger import Work
from gpve.tasks.retention import Compacted, forget_changes, forget_tasks
from gpve.tasks.submit import cancel, request, submit
from tests.store.test_store import own


def test_closed_tasks_are_forgotten_and_watchers_told(store):
    for at in range(4):
        wish = request(FLOWS, "vm_create", {"name": f"vm-{at}", "cpu_milli": 1, "memory_mib": 1}, key=f"k{at}")
        store.transact([Work(lambda tx, wish=wish: submit(tx, wish))])
    store.transact(
        [Work(own(1, None, status="done", closed_at=10.0)), Work(own(2, None, status="undone", closed_at=5.0))]
    )
    store.transact([Work(own(3, None, status="done", closed_at=50.0))])
    assert store.closed_before(20.0, 10) == [2, 1]
    assert store.closed_before(20.0, 1) == [2]
    assert len(store.events_since(0, 100)) == 4
    assert [row["task"] for row in store.events_since(0, 2)] == [1, 2]
    store.transact([Work(lambda tx: forget_tasks(tx, [2, 1, 4, 99]))])
    assert [row["id"] for row in store.rows("task")] == [3, 4]
    assert [row["key"] for row in store.rows("idempotency")] == ["k2", "k3"]
    with pytest.raises(Compacted, match="list anew"):
        store.events_since(0, 100)
    kept = store.rows("counter", name="compacted")[0]["value"]
    assert store.events_since(kept, 100) == []
    store.transact([Work(lambda tx: cancel(tx, 4, "no"))])
    assert store.events_since(kept, 100) == []


def test_changes_that_nobody_can_ask_for_are_forgotten(store):
    """And nothing else is: a watcher who resumes from what is kept misses none."""
    store.transact([Work(lambda tx: tx.put("network", {"name": "old", "kind": "bridge", "task": None}))])
    wish = request(FLOWS, "vm_create", {"name": "vm", "cpu_milli": 1, "memory_mib": 1})
    store.transact([Work(lambda tx: submit(tx, wish))])
    store.transact([Work(own(1, None, status="done", closed_at=10.0))])
    store.transact([Work(lambda tx: tx.put("network", {"name": "new", "kind": "bridge", "task": None}))])
    assert store.compacted_changes(10) == []
    store.transact([Work(lambda tx: forget_tasks(tx, [1]))])
    kept = store.rows("counter", name="compacted")[0]["value"]
    old = store.compacted_changes(10)
    assert old
    assert store.compacted_changes(1) == old[:1]
    later = [row for row in store.rows("change") if row["revision"] > kept]
    store.transact([Work(lambda tx: forget_changes(tx, old))])
    assert store.rows("change") == later
    assert any('"new"' in row["data"] for row in later)
    assert store.compacted_changes(10) == []


def test_nodes_that_changed_and_nodes_by_name(store):
    """What the scheduler asks for: later revisions, and those that it names."""
    for name in ("a", "b", "c"):
        store.transact([Work(lambda tx, name=name: tx.put("node", node_row(name)))])
    assert [row["name"] for row in store.nodes(-1, ())] == ["a", "b", "c"]
    seen = max(row["revision"] for row in store.nodes(-1, ()))
    assert store.nodes(seen, ()) == []
    store.transact([Work(lambda tx: tx.put("node", {**tx.get("node", "b"), "open": False}))])
    assert [row["name"] for row in store.nodes(seen, ())] == ["b"]
    assert [row["name"] for row in store.nodes(seen, ("c", "none"))] == ["b", "c"]
    failed = store.transact([Work(_spoil)])
    assert isinstance(failed[0], ZeroDivisionError)
    assert [row["name"] for row in store.nodes(seen, ())] == ["b"], "what was rolled back did not change"


def _spoil(tx):
    tx.put("node", {**tx.get("node", "a"), "open": False})
    return 1 // 0


def test_sessions_of_nodes_that_beat(store):
    assert store.sessions() == []
    store.transact([Work(lambda tx: tx.put("node", node_row("a")))])
    assert store.transact([Work(lambda tx: renew(tx, "a", "0", "one"))]) == [True]
    assert store.transact([Work(lambda tx: renew(tx, "none", "0", "one"))]) == [False]
    assert store.sessions() == [{"node": "a", "beat": 1, "dead_at": None, "alive": True}]
    # A beat came meanwhile.
    store.transact([Work(lambda tx: renew(tx, "a", "0", "two"))])
    assert store.transact([Work(lambda tx: declare_dead(tx, "a", 1))]) == [False]
    assert store.transact([Work(lambda tx: declare_dead(tx, "a", 2))]) == [True]
    assert store.transact([Work(lambda tx: renew(tx, "a", "0", "one"))]) == [False], "a dead node gets no lease"
    assert store.sessions() == [{"node": "a", "beat": 3, "dead_at": 2, "alive": False}]


def test_sessions_are_in_the_order_of_their_names_whoever_beat_first(store):
    for name in ("n10", "b", "n9", "B"):
        store.transact([Work(lambda tx, name=name: tx.put("node", node_row(name)))])
        store.transact([Work(lambda tx, name=name: renew(tx, name, "0", "one"))])
    store.transact([Work(lambda tx: declare_dead(tx, "b", 1))])
    assert [(row["node"], row["alive"]) for row in store.sessions()] == [
        ("B", True),
        ("b", False),
        ("n10", True),
        ("n9", True),
    ]
