"""Chaos: random worlds are clean, runs repeat byte for byte, planted defects are found and cut down."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from gpve_sim.world import nodes
from gpve_sim.world.chaos import EVERY, run_plan, summary
from gpve_sim.world.chaos_plan import Mishap, Plan, Resident, Wish, make_plan, read_plan
from gpve_sim.world.faults import Fault
from gpve_sim.world.shrink import kind_of, shrink, told
from typer.testing import CliRunner

from gpve.cli.main import app
from gpve.model.errors import InputError
from gpve.tasks import advance, ha, lease, machine, operations, records, worker
from gpve.tasks.flows import FLOWS

SEEDS = 210
OF_HA = {"vm_recover", "vcluster_recover", "agent_recover", "node_rejoin", "node_survey"}
"""Flows that high availability asks for."""
PARTS = 6
MISHAPS = {*map(str, Fault), "power", "cut", "crash", "pause", "store down", "clock", "part"}


def findings_of(plan: Plan) -> list[str]:
    return run_plan(plan).findings


@pytest.mark.parametrize("part", range(PARTS))
def test_random_worlds_are_clean(part: int) -> None:
    ended: dict[str, int] = {}
    met: set[str] = set()
    for seed in range(part, SEEDS, PARTS):
        report = run_plan(make_plan(seed))
        assert report.findings == [], f"gpve chaos --first {seed} --seeds 1"
        met.update(report.met)
        for status, count in report.tasks.items():
            ended[status] = ended.get(status, 0) + count
    assert ended["done"] > 100
    assert ended["undone"] > 10
    assert ended.keys() == {"done", "undone"}
    # What waits for a command in vain befalls nobody, and then its defects are found by nobody.
    assert met == MISHAPS


def test_plans_reach_everything() -> None:
    """Chaos is worth nothing if it never asks, or if nothing befalls."""
    plans = [make_plan(seed) for seed in range(400)]
    asked = set(FLOWS.names) - {"node_rejoin", "node_survey"}
    assert {wish.what for plan in plans for wish in plan.wishes} == {*asked, "cancel", "again"}
    befell = {mishap.what for plan in plans for mishap in plan.mishaps}
    assert befell == MISHAPS
    assert any(None not in plan.engines for plan in plans)
    assert 100 < sum(plan.ha for plan in plans) < 250
    assert {mishap.what for plan in plans if plan.ha for mishap in plan.mishaps} == befell
    assert {plan.forget_s for plan in plans} == {None, 0.0, 5.0, 60.0}
    assert {plan.think_s for plan in plans} == {0.0, 0.02, 0.3}


def test_high_availability_is_reached() -> None:
    """Worlds whose nodes beat declare nodes dead, recover guests, and take nodes back."""
    flows: Counter[str] = Counter()
    for seed in range(80):
        plan = make_plan(seed)
        if plan.ha:
            flows.update(run_plan(plan).flows)
    assert flows.keys() >= OF_HA


def test_same_seed_same_log_in_two_processes() -> None:
    said = []
    for seed_of_hashes in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", "from gpve.cli.main import main; main()", "chaos", "--seeds", "6", "--json"],
            env={**os.environ, "PYTHONHASHSEED": seed_of_hashes},
            capture_output=True,
            check=True,
        )
        said.append(run.stdout)
    assert said[0] == said[1]
    assert [row["log"] for row in json.loads(said[0])] == [run_plan(make_plan(seed)).digest for seed in range(6)]


def test_a_plan_is_a_file(tmp_path) -> None:
    plan = make_plan(7)
    (tmp_path / "plan.json").write_text(plan.text())
    assert read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(InputError, match="not a plan"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(InputError, match="not a plan"):
        read_plan(tmp_path / "none.json")


# What chaos found, each cut down, and mended since.


def plan_of(wishes: list[Wish], mishaps: list[Mishap], resident: Resident, engines: object = (None,)) -> Plan:
    """A plan in three nodes."""
    plan = make_plan(3)
    assert len(plan.nodes) == 3
    found = {"engines": engines, "residents": (resident,), "guests_limit": None}
    return replace(plan, **found, wishes=tuple(wishes), mishaps=tuple(mishaps))


AGENT = Resident(100, "agent", "running", "n0")
VM = Resident(100, "vm", "running", "n0")


def test_what_was_carried_for_another_engine_and_lost_is_carried_again() -> None:
    lost = Mishap(0.0, "answer lost")
    checkpoint = Wish(0, 0.5, "agent_checkpoint", 0, {"guest": 100, "name": "s0"})
    report = run_plan(plan_of([checkpoint], [lost], AGENT, engines=(("n1", "n2"), ("n0",))))
    assert (report.findings, report.tasks, report.resumed) == ([], {"done": 1}, 0)


def test_what_two_engines_carry_is_refused_to_one_and_done_for_the_other() -> None:
    # The owner looks after the one has heard that it is refused, and before the other has heard that it is done.
    mishaps = [Mishap(0.0, "refuse"), Mishap(0.6, "pause", "0", 9.45)]
    checkpoint = Wish(0, 0.5, "agent_checkpoint", 0, {"guest": 100, "name": "s0"})
    report = run_plan(plan_of([checkpoint], mishaps, AGENT, engines=(("n1", "n2"), ("n0",), ("n0",))))
    assert (report.findings, report.tasks) == ([], {"undone": 1})


def test_a_commit_step_in_doubt_is_resumed_as_what_it_is() -> None:
    away = [Mishap(0.75, "cut", node, 1500.0) for node in ("n1", "n2")]
    report = run_plan(plan_of([Wish(0, 0.5, "vm_migrate", 0, {"guest": 100})], away, VM), every=1)
    assert report.findings == []
    assert report.tasks == {"done": 1}
    assert report.resumed > 0


def test_what_may_still_run_behind_a_cut_cable_is_not_started_elsewhere() -> None:
    """Somebody asks for the recovery of a guest without ha, whose node was declared dead."""
    wish = Wish(0, 60.0, "vm_recover", 0, {"guest": 100})
    plan = plan_of([wish], [Mishap(5.0, "cut", "n0", 200.0)], VM)
    assert run_plan(replace(plan, ha=True)).findings == []
    assert run_plan(replace(plan, ha=True)).answers == {0: "Forbidden"}


def test_a_guest_of_a_stuck_task_is_looked_after_when_the_task_is_over() -> None:
    """The node is back long before the task is resumed, and the guest does not run any more."""
    report = run_plan(read_plan(Path(__file__).parent / "plans/stuck-guest.json"))
    assert report.findings == []
    assert report.resumed > 0


def test_a_node_returns_once_where_a_recovery_from_it_is_stuck_on_its_way_back() -> None:
    """It returned again and again, as long as the task was stuck, each time with a survey more that waited for it."""
    report = run_plan(read_plan(Path(__file__).parent / "plans/stuck-recovery.json"))
    assert report.findings == []
    assert report.resumed > 0
    assert report.flows["node_rejoin"] == 1
    assert report.flows["node_survey"] == 2


def test_clocks_that_differ_do_not_keep_an_engine_busy_for_ever() -> None:
    drain = Wish(0, 2.836, "node_drain", 0, {"node": "n0"})
    report = run_plan(plan_of([drain], [Mishap(34.566, "clock", "", -30.0)], AGENT))
    assert report.findings == []
    assert report.transactions < 3_000


# Planted defects.


def caught(seeds: int, every: int = EVERY, first: int = 0) -> tuple[Plan, str]:
    """The first plan from seed ``first`` on that fails, and what it finds."""
    for seed in range(first, seeds):
        found = run_plan(make_plan(seed), every).findings
        if found:
            return make_plan(seed), found[0]
    raise AssertionError(f"{seeds} seeds found nothing")


def small(plan: Plan, finding: str, wishes: int = 3, mishaps: int = 3) -> Plan:
    """The plan cut down; it still fails in the same way."""
    smaller = shrink(plan, findings_of)
    assert kind_of(finding) in map(kind_of, findings_of(smaller))
    assert len(smaller.wishes) <= wishes, told(smaller)
    assert len(smaller.mishaps) <= mishaps, told(smaller)
    return smaller


def accept_stale(journal, operation):
    """`admit` without its fence."""
    journal.fence(operation.resource, 0)
    return operations.admit(journal, operation)


def test_epochs_are_compared_neither_in_the_store_nor_on_the_node(monkeypatch) -> None:
    monkeypatch.setattr(advance, "_own", lambda tx, known, state: tx.get("task", known["id"]))
    monkeypatch.setattr(nodes, "admit", accept_stale)
    # Seeds before fail as well, but take more mishaps to do so.
    small(*caught(60, first=10))


def test_a_stale_epoch_is_accepted_on_the_node_alone(monkeypatch) -> None:
    """A command that comes when the node has forgotten its task: nothing but the fence is left to refuse it."""
    monkeypatch.setattr(nodes, "admit", accept_stale)
    small(*caught(80, first=20))


def test_a_node_forgets_without_a_fence(monkeypatch) -> None:
    monkeypatch.setattr(nodes, "forget", lambda journal, task, epoch: journal.drop(task))
    small(*caught(170, first=150))


@pytest.mark.parametrize("times", [0, 2])
def test_a_claim_is_dropped_or_counted_twice(monkeypatch, times: int) -> None:
    claim = advance.claim

    def wrong(tx, task, guest, spec, role, decided):
        if not times:
            return {"node": decided.node, "devices": {}}
        result = claim(tx, task, guest, spec, role, decided)
        node = tx.get("node", decided.node)
        tx.put("node", {**node, "used_cpu_milli": node["used_cpu_milli"] + spec["cpu_milli"]})
        return result

    monkeypatch.setattr(advance, "claim", wrong)
    smaller = small(*caught(20), wishes=2, mishaps=1)
    assert any("claims" in finding for finding in findings_of(smaller))


def test_claims_are_not_compared_with_what_a_node_has(monkeypatch) -> None:
    """Of two decisions of one call the second is late, and another engine's claim has taken the version it expects."""
    monkeypatch.setattr(records, "overdrawn", lambda node: False)
    plan, finding = caught(120)
    assert "given away more" in finding
    small(plan, finding, wishes=3, mishaps=0)


def test_undo_goes_forward(monkeypatch) -> None:
    owed = machine._owed
    monkeypatch.setattr(machine, "_owed", lambda flow, state: owed(flow, state)[::-1])
    monkeypatch.setattr(machine, "_waits_for", lambda flow, step, waiting: False)
    small(*caught(60))


def test_a_tombstone_is_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(nodes.MemoryJournal, "bury", lambda self, operation: None)
    small(*caught(500, first=400))


def test_a_lock_is_released_early(monkeypatch) -> None:
    def early(tx, taken):
        for row in tx.where("lock", task=taken.row["id"]) if taken else ():
            tx.delete("lock", row["resource"], taken.row["id"])
        return taken

    monkeypatch.setattr(worker, "take", lambda tx, *given: early(tx, lease.take(tx, *given)))
    monkeypatch.setattr(worker, "take_new", lambda tx, *given: early(tx, lease.take_new(tx, *given)))
    small(*caught(20), wishes=1, mishaps=1)


def test_a_node_is_declared_dead_too_early(monkeypatch) -> None:
    """Before its lease is over, so while it still runs what is started elsewhere."""
    look = ha.Watch.look

    def hasty(self, rows, now):
        self.margin_s = 1.0 - self.lease_s
        return look(self, rows, now)

    monkeypatch.setattr(ha.Watch, "look", hasty)
    plan, finding = caught(400)
    assert "runs on" in finding
    small(plan, finding, wishes=2, mishaps=2)


def test_a_dead_node_gets_a_lease_and_starts_its_guests_a_second_time(monkeypatch) -> None:
    renew = worker.renew
    monkeypatch.setattr(worker, "renew", lambda tx, node, boot, engine: renew(tx, node, boot, engine) or True)
    plan, finding = caught(600)
    assert "runs on" in finding
    small(plan, finding, wishes=2, mishaps=3)


def test_the_journal_forgets_what_is_done(monkeypatch) -> None:
    monkeypatch.setattr(nodes.MemoryJournal, "done", lambda self, key: None)
    small(*caught(420, first=400))


def test_the_commit_point_is_ignored(monkeypatch) -> None:
    monkeypatch.setattr(machine, "committed", lambda flow, state: False)
    monkeypatch.setattr(machine, "in_doubt", lambda flow, state: False)
    small(*caught(200))


def test_a_failing_seed_says_how_it_is_replayed(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(advance, "claim", lambda *_: {"node": _[-1].node, "devices": {}})
    seed = caught(20)[0].seed
    run = CliRunner().invoke(app, ["chaos", "--first", str(seed), "--seeds", "1", "--out", str(tmp_path)])
    assert run.exit_code == 1
    file = tmp_path / f"seed-{seed}.json"
    assert f"gpve chaos --plan {file}" in run.stdout
    again = CliRunner().invoke(app, ["chaos", "--plan", str(file), "--json"])
    assert again.exit_code == 1
    assert json.loads(again.stdout)[0]["findings"]
    monkeypatch.undo()
    healthy = CliRunner().invoke(app, ["chaos", "--plan", str(file), "--json"])
    assert healthy.exit_code == 0, healthy.stdout
    assert json.loads(healthy.stdout) == [summary(run_plan(read_plan(file)))]
