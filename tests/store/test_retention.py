"""Closed tasks are forgotten after their time; whoever watches from before is told so."""

import pytest

from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Work
from gpve.tasks.retention import Compacted, forget_tasks
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
