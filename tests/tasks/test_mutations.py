"""The checks can fail: each of these defects, planted, is found by the sweep or by the audit."""

import random
from collections.abc import Iterator

from gpve_sim.world import engine, nodes, store
from gpve_sim.world.faults import Fault, Injection
from gpve_sim.world.trial import run_trial

from gpve.tasks import advance, lease, machine
from tests.tasks.worlds import make_world, placer, run, submit


def found(plans: list[tuple[str, tuple[Injection, ...]]]) -> Iterator[str]:
    """What watched trials find, a finding at a time."""
    for seed, (flow, plan) in enumerate(plans):
        worlds: list[engine.World] = []

        def watched(*arguments, worlds=worlds, **options):
            worlds.append(engine.World(*arguments, audited=True, **options))
            return worlds[0]

        trial = run_trial(flow, plan, placer, seed, make_world=watched)
        yield from worlds[0].findings
        yield from trial.findings
        if trial.status not in ("done", "undone"):
            yield f"the task is {trial.status}"


def at(step: str, fault: Fault, direction: str = "do") -> Injection:
    return Injection(step, direction, fault)


STOLEN = [("vm_migrate", (at("prepare", Fault.LEASE_STOLEN),)), ("vm_create", (at("volumes", Fault.LEASE_STOLEN),))]
TURNED = [("vm_create", (at("start", Fault.REFUSE),)), ("vm_migrate", (at("transfer", Fault.REFUSE),))]
OVERTAKEN = [("vm_create", (at("volumes", Fault.SLOW), at("ports", Fault.REFUSE)))]


def test_nothing_is_found_without_a_mutation():
    assert list(found([*STOLEN, *TURNED, *OVERTAKEN])) == []


def test_the_epoch_is_not_compared(monkeypatch):
    monkeypatch.setattr(advance, "_own", lambda tx, known, state: tx.get("task", known["id"]))
    assert next(found(STOLEN), None)


def test_undo_goes_forward(monkeypatch):
    owed = machine._owed
    monkeypatch.setattr(machine, "_owed", lambda flow, state: owed(flow, state)[::-1])
    monkeypatch.setattr(machine, "_waits_for", lambda flow, step, waiting: False)
    assert next(found(TURNED), None)


def test_a_tombstone_is_forgotten(monkeypatch):
    monkeypatch.setattr(nodes.MemoryJournal, "bury", lambda self, operation: None)
    assert next(found(OVERTAKEN), None)


def test_a_refused_step_is_undone_as_if_it_had_been_done(monkeypatch):
    """Promise 5: only a refusal skips the undo; here it does not, and the body of the undo runs."""
    plan = [("vm_create", (at("ports", Fault.REFUSE),))]
    trial = run_trial(*plan[0], placer, 1)
    assert "undoing ports" in [f"{row['kind']} {row['step']}" for row in trial.log]
    assert [row["data"] for row in trial.log if row["kind"] == "undoing" and row["step"] == "ports"] == [
        '{"tombstone":true}'
    ]


def contend(seed: int) -> list[str]:
    """Tasks that want the same things, alone or together."""
    chosen = random.Random(seed)
    world = make_world(audited=True)
    for _ in range(12):
        names = chosen.sample("xyz", chosen.randint(1, 3))
        cut = chosen.randint(0, len(names))
        submit(world, "hold", {"alone": names[:cut], "together": names[cut:]})
    world.start(2)
    return run(world)


def test_a_lock_is_released_early(monkeypatch):
    assert contend(1) == []
    monkeypatch.setattr(lease, "holds_all", lambda tx, task: True)
    monkeypatch.setattr(store, "free", lease.free)
    assert any("at the same time" in finding for finding in contend(1))


def test_a_claim_is_dropped(monkeypatch):
    def claim(tx, task, guest, spec, role, decided):
        return {"node": decided.node, "devices": {}}

    monkeypatch.setattr(advance, "claim", claim)
    assert next(found([("vm_create", ())]), None)


def test_an_outbox_row_is_lost(monkeypatch):
    put = store.MemoryTx.put
    monkeypatch.setattr(
        store.MemoryTx, "put", lambda self, table, row: None if table == "outbox" else put(self, table, row)
    )
    assert any("not in the outbox" in finding for finding in found([("vm_create", ())]))


def test_an_outcome_unknown_counts_as_refused(monkeypatch):
    observe = machine.observe

    def hopeful(flow, state, name, direction, outcome, now, draw):
        from gpve.tasks.outcome import Refused, Unknown

        if isinstance(outcome, Unknown) and direction == "do":
            outcome = Refused(outcome.reason, again=False, reached=False)
        return observe(flow, state, name, direction, outcome, now, draw)

    monkeypatch.setattr(advance, "observe", hopeful)
    assert next(found([("vm_create", (at("volumes", Fault.UNKNOWN),))]), None)


def test_the_commit_point_is_ignored(monkeypatch):
    monkeypatch.setattr(machine, "committed", lambda flow, state: False)
    monkeypatch.setattr(machine, "in_doubt", lambda flow, state: False)
    assert next(found([("vm_migrate", (at("switch", Fault.CANCEL),))]), None)
