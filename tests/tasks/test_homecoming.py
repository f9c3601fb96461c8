"""A node that comes back while a recovery from it is stuck: only one that has turned lets the node return."""

from collections.abc import Callable
from typing import Any

import pytest
from gpve_sim.world.store import MemoryStore
from gpve_sim.world.trial import add_guest, node_row

from gpve.tasks.errors import Refuse
from gpve.tasks.events import Event, Kind, to_row
from gpve.tasks.flows import homecoming
from gpve.tasks.flows.guests import OnGuest
from gpve.tasks.flows.recover import vm_recover
from gpve.tasks.ledger import Tx, Work
from gpve.tasks.submit import Request, submit

SPEC = {"cpu_milli": 1000, "memory_mib": 1024, "gpu_count": 0, "gpu_milli": 0, "ha": True, "snapshots": []}
ON = {"node": "n0", "guests": None}


def made(store: MemoryStore, run: Callable[[Tx], Any]) -> Any:
    (result,) = store.transact([Work(run)])
    if isinstance(result, Exception):
        raise result
    return result


def with_a_stuck_recovery(*events: Event) -> MemoryStore:
    """A dead node, its guest, and a recovery whose log ends with these events, stuck."""
    store = MemoryStore(lambda: 100.0)

    def write(tx: Tx) -> None:
        for name in ("n0", "n1"):
            tx.put("node", node_row(name, cores=8) | {"alive": name != "n0"})
        add_guest(tx, 100, "vm", "running", "n0", SPEC)
        row = submit(tx, Request(vm_recover, OnGuest(guest=100), actor="ha"))
        for seq, event in enumerate(events, row["seq"]):
            tx.put("event", to_row(row["id"], seq, event))
        tx.put("task", {**row, "status": "stuck", "seq": row["seq"] + len(events)})

    made(store, write)
    return store


STUCK = Event(Kind.STUCK, "", 50.0, 1, {})
TURNED = [
    Event(Kind.BEGAN, "", 10.0, 1, {"facts": {}}),
    Event(Kind.FAILED, "", 20.0, 1, {"reason": "cancelled"}),
    STUCK,
]
IN_DOUBT = [
    Event(Kind.BEGAN, "", 10.0, 1, {"facts": {}}),
    Event(Kind.STARTED, "start", 20.0, 1, {}),
    Event(Kind.GAVE_UP, "start", 40.0, 1, {"reason": "no answer in time"}),
    STUCK,
]


def test_the_guest_may_run_elsewhere_so_the_node_waits() -> None:
    store = with_a_stuck_recovery(*IN_DOUBT)
    with pytest.raises(Refuse, match="in the hands of tasks 1"):
        made(store, lambda tx: homecoming.settle(tx, 2, ON))
    made(store, lambda tx: homecoming.revive(tx, 2, {"node": "n0", "left": []}))
    assert not store.tables["node"]["n0",]["alive"]
    assert store.find("task", {"flow": "node_survey"}) == []


def test_the_guest_is_at_home_so_the_node_returns_and_asks_after_it_later() -> None:
    """Once, however often the node dies and returns meanwhile."""
    store = with_a_stuck_recovery(*TURNED)
    for _ in range(3):
        assert made(store, lambda tx: homecoming.settle(tx, 2, ON)) == {"here": [], "left": []}
    (survey,) = store.find("task", {"flow": "node_survey"})
    assert survey["body"] == '{"guests":[100],"node":"n0"}'
    made(store, lambda tx: homecoming.revive(tx, 2, {"node": "n0", "left": []}))
    assert store.tables["node"]["n0",]["alive"]
