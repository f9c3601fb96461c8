"""All flows: without faults, with every single fault, with samples of two; and what each must refuse.

`run_trial` compares: an undone task leaves everything as it was, one that is done leaves what a run without faults
leaves.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Fault, Injection
from gpve_sim.world.sweep import Point, pairs, points_of, singles
from gpve_sim.world.trial import CAST, NODES, Trial, body_of, cast_of, picture, populate, run_trial

from gpve.model.kinds import KINDS
from gpve.model.phases import GONE, MOVES, STEADY, allowed
from gpve.tasks.errors import BadBody, Forbidden, NotFound, OverQuota, TaskError
from gpve.tasks.events import encode
from gpve.tasks.flows import FLOWS
from gpve.tasks.flows.evacuate import TRIES, blockers
from gpve.tasks.ledger import Tx, Work
from gpve.tasks.submit import cancel, request
from tests.tasks.worlds import make_world, placer, run, submit

IN_STORE = ("network_create", "network_delete")
"""Flows without steps."""
ON_GUESTS = [(kind, operation) for kind in KINDS for operation in MOVES[kind] if operation != "create"]


def flow_of(kind: str, operation: str) -> str:
    """The flow of an operation; what is done with volumes and networks is named after these."""
    named = operation.replace("-", "_")
    return named if named in FLOWS.names else f"{kind}_{named}"


@lru_cache
def points(flow: str) -> list[Point]:
    return points_of(flow, placer)


def world_of(flow: str, seed: int = 0) -> World:
    """The world in which a flow begins."""
    world = make_world(flows=FLOWS, nodes=NODES)
    populate(world, seed, flow)
    return world


def write(world: World, change: Any) -> Any:
    """Change the store by hand, or look at it."""
    (result,) = world.store.transact([Work(change)])
    if isinstance(result, Exception):
        raise result
    return result


def alter(world: World, table: str, *key: Any, **columns: Any) -> None:
    """Change columns of a row by hand."""
    write(world, lambda tx: tx.put(table, {**(tx.get(table, *key) or {}), **columns}))


def done(world: World, flow: str, **body: Any) -> None:
    """Run a task to its good end."""
    row = submit(world, flow, body)
    if not world.engines:
        world.start(1)
    while world.store.tables["task"][row["id"],]["status"] not in ("done", "undone", "stuck"):
        world.env.run(world.env.now + 1.0)
    after = world.store.tables["task"][row["id"],]
    assert after["status"] == "done", after["reason"]


def refused(world: World, flow: str, body: dict[str, Any]) -> TaskError:
    """The error that a submission is answered with; nothing is written."""
    before = (picture(world), dict(world.store.tables["task"]), dict(world.store.tables["counter"]))
    with pytest.raises(TaskError) as error:
        submit(world, flow, body)
    assert before == (picture(world), world.store.tables["task"], world.store.tables["counter"])
    return error.value


def reached(trial: Trial, injection: Injection) -> bool:
    """Whether the run came to the command that a fault was meant for."""
    kinds = {row["kind"] for row in trial.log if row["step"] == injection.step}
    return bool(kinds & ({"undoing", "undone"} if injection.direction == "undo" else kinds - {"skipped", "undone"}))


def test_the_table_of_moves_and_the_flows_are_the_same() -> None:
    wanted = {flow_of(kind, operation) for kind in KINDS for operation in MOVES[kind]}
    alone = {"volume_create", "volume_delete", "network_create", "network_delete", "node_drain", "node_open"}
    alone |= {"node_close", "node_rejoin", "node_survey"}
    assert wanted | alone == set(FLOWS.names)


@pytest.mark.parametrize("flow", FLOWS.names)
def test_without_faults(flow: str) -> None:
    kind, _, operation = flow.partition("_")
    for seed in range(12):
        trial = run_trial(flow, (), placer, seed=seed)
        assert (trial.status, trial.findings) == ("done", []), seed
        guest = 103 if operation in ("create", "clone") else body_of(flow, seed).get("guest")
        if kind not in KINDS or guest is None:
            continue
        move = MOVES[kind][operation]
        if operation in ("create", "clone"):
            runs = operation == "create" and body_of(flow, seed).get("autostart", True)
            assert trial.phases[103] == ("running" if runs else "stopped")
        elif move.after == GONE:
            assert guest not in trial.phases
        elif guest == CAST:
            assert trial.phases[CAST] == move.done(cast_of(flow, seed)[1])


@pytest.mark.parametrize("flow", FLOWS.names)
def test_every_single_fault(flow: str) -> None:
    fired = set()
    for seed, plan in enumerate(singles(points(flow))):
        trial = run_trial(flow, plan, placer, seed=seed)
        assert (trial.status == "stuck", trial.findings) == (False, []), (seed, [str(i) for i in plan])
        if plan[-1] in trial.fired:
            fired.add(plan[-1])
        else:
            assert not reached(trial, plan[-1]), (seed, str(plan[-1]))
    for plan in singles(points(flow)):
        if plan[-1] not in fired:
            # Missed in a world in which the step is skipped: in the first world it is not.
            trial = run_trial(flow, plan, placer, seed=0)
            assert plan[-1] in trial.fired
            assert (trial.status == "stuck", trial.findings) == (False, [])


@pytest.mark.parametrize("flow", [name for name in FLOWS.names if not name.startswith("node_")])
def test_every_undo_is_reached(flow: str) -> None:
    found = FLOWS.newest(flow)
    assert found is not None
    steps = {step.name for step in found.steps if step.undo is not None}
    assert steps <= {point.step for point in points(flow) if point.direction == "undo"}


@pytest.mark.parametrize("flow", [name for name in FLOWS.names if name not in IN_STORE])
def test_samples_of_two_faults(flow: str) -> None:
    chance = random.Random(flow)
    plans = list(pairs(points(flow)))
    for plan in chance.sample(plans, min(40, len(plans))):
        seed = chance.randrange(10_000)
        trial = run_trial(flow, plan, placer, seed=seed)
        assert (trial.status == "stuck", trial.findings) == (False, []), (seed, [str(i) for i in plan])


@pytest.mark.full
@pytest.mark.parametrize("flow", [name for name in FLOWS.names if name not in IN_STORE])
def test_many_samples_of_two_faults(flow: str) -> None:
    chance = random.Random(f"{flow}, more")
    plans = list(pairs(points(flow)))
    for plan in chance.sample(plans, min(2_000, len(plans))):
        seed = chance.randrange(10_000)
        trial = run_trial(flow, plan, placer, seed=seed)
        assert (trial.status == "stuck", trial.findings) == (False, []), (seed, [str(i) for i in plan])


def wrong_phases() -> Iterator[tuple[str, str, str, str]]:
    for kind, operation in ON_GUESTS:
        for phase in [*sorted(STEADY[kind] - MOVES[kind][operation].before), MOVES[kind]["delete"].during]:
            yield flow_of(kind, operation), kind, operation, phase


@pytest.mark.parametrize(("flow", "kind", "operation", "phase"), list(wrong_phases()))
def test_a_phase_that_forbids_it(flow: str, kind: str, operation: str, phase: str) -> None:
    world = world_of("vm_create" if kind == "vm" else f"{kind}_start")
    alter(world, "guest", CAST, phase=phase, kind=kind)
    error = refused(world, flow, {**body_of(flow, 0), "guest": CAST})
    assert isinstance(error, Forbidden)
    assert error.allowed == allowed(kind, phase)
    assert phase in error.state


@pytest.mark.parametrize("flow", FLOWS.names)
def test_a_body_that_is_none(flow: str) -> None:
    for body in ({**body_of(flow, 0), "extra": 1}, {}, {key: [] for key in body_of(flow, 0)}):
        with pytest.raises(BadBody, match=flow):
            request(FLOWS, flow, body)


@pytest.mark.parametrize(("kind", "operation"), ON_GUESTS)
def test_a_guest_of_another_kind_or_project(kind: str, operation: str) -> None:
    flow = flow_of(kind, operation)
    for guest in (999, 101 if kind != "agent" else 100):
        if guest == 999 or flow.startswith(f"{kind}_"):
            assert isinstance(refused(world_of("vm_start"), flow, {**body_of(flow, 0), "guest": guest}), NotFound)
    world = world_of("vm_start")
    alter(world, "guest", CAST, project="other", kind=kind)
    assert isinstance(refused(world, flow, {**body_of(flow, 0), "guest": CAST}), NotFound)


def test_a_guest_that_does_not_hear_the_power_button_runs_on() -> None:
    world = world_of("vm_shutdown")
    world.nodes.by_name["b"].hardware.deaf.add(CAST)
    before = picture(world)
    submit(world, "vm_shutdown", {"guest": CAST, "within_s": 5})
    world.start(1)
    assert run(world) == []
    (task,) = world.store.rows("task")
    assert task["status"] == "undone"
    assert "did not end within 5 s; vm_stop" in task["reason"]
    assert picture(world) == before


def test_a_resize_never_overcommits() -> None:
    world = world_of("vm_resize")
    before = picture(world)
    submit(world, "vm_resize", {"guest": CAST, "cpu_milli": 16_001})
    world.start(1)
    assert run(world) == []
    (task,) = world.store.rows("task")
    assert (task["status"], picture(world)) == ("undone", before)
    assert "node b has 15000 cpu_milli left, 15001 more are needed" in task["reason"]


def test_a_resize_that_just_fits_and_back() -> None:
    world = world_of("vm_resize")
    before = picture(world)
    old = json.loads(world.store.tables["guest"][CAST,]["spec"])
    done(world, "vm_resize", guest=CAST, cpu_milli=16_000, memory_mib=64 * 1024)
    assert world.store.tables["node"]["b",]["used_cpu_milli"] == 16_000
    done(world, "vm_resize", guest=CAST, cpu_milli=old["cpu_milli"], memory_mib=old["memory_mib"])
    assert run(world) == []
    assert picture(world) == before


@pytest.mark.parametrize("flow", ["vm_create", "vm_resize", "vm_clone", "vcluster_create", "agent_create"])
def test_what_the_quota_does_not_allow(flow: str) -> None:
    world = world_of(flow)
    used = world.store.tables["quota"]["default",]["cpu_milli"]
    alter(world, "quota", "default", cpu_milli_limit=used)
    body = {"guest": CAST, "cpu_milli": 9_000} if flow == "vm_resize" else body_of(flow, 0)
    error = refused(world, flow, body)
    assert isinstance(error, OverQuota)
    assert (error.used, error.limit) == (used, used)


def test_shrinking_is_allowed_to_a_project_over_its_quota() -> None:
    world = world_of("vm_resize")
    alter(world, "quota", "default", cpu_milli_limit=1, memory_mib_limit=1)
    done(world, "vm_resize", guest=CAST, cpu_milli=500)
    assert run(world) == []


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("vm_resize", {"guest": CAST, "cpu_milli": 1000}, "of this size"),
    ("vm_migrate", {"guest": CAST, "to": "b"}, "another node"),
    ("vm_migrate", {"guest": CAST, "to": "nowhere"}, "no node nowhere"),
    ("vm_snapshot", {"guest": CAST, "name": "old"}, "another name"),
    ("vm_rollback", {"guest": CAST, "name": "never"}, "it has old, older"),
    ("vm_clone", {"guest": CAST, "name": "g100"}, "another name"),
    ("vm_clone", {"guest": CAST, "name": "new", "node": "nowhere"}, "no node nowhere"),
    ("vcluster_resize", {"guest": CAST, "cpu_milli": 1000}, "of this size"),
    ("vcluster_upgrade", {"guest": CAST, "version": "v1.30.1"}, "a newer version"),
    ("vcluster_upgrade", {"guest": CAST, "version": "v1.9.7"}, "a newer version"),
    ("agent_checkpoint", {"guest": 101, "name": "first"}, "it never ran"),
    ("volume_create", {"volume": "spare", "node": "a", "size_gib": 1}, "another name"),
    ("volume_create", {"volume": "new", "node": "nowhere", "size_gib": 1}, "no node nowhere"),
    ("volume_delete", {"volume": "data"}, "volume_detach"),
    ("volume_delete", {"volume": "never"}, "no volume never"),
    ("volume_attach", {"guest": CAST, "volume": "data"}, "volume_detach"),
    ("volume_attach", {"guest": 100, "volume": "spare"}, "a volume of that node"),
    ("volume_detach", {"guest": CAST, "volume": "spare"}, f"detach {CAST}-0, detach data"),
    ("network_create", {"network": "lan"}, "another name"),
    ("network_delete", {"network": "lan"}, f"in use by guests 100, {CAST}"),
    ("network_delete", {"network": "never"}, "no network never"),
    ("network_attach", {"guest": CAST, "network": "lan"}, "another network"),
    ("network_attach", {"guest": CAST, "network": "never"}, "no network never"),
    ("network_detach", {"guest": CAST, "network": "spare"}, "it has lan"),
    ("node_drain", {"node": "nowhere"}, "no node nowhere"),
]


@pytest.mark.parametrize(("flow", "body", "told"), REFUSALS)
def test_what_is_refused_says_what_would_do(flow: str, body: dict[str, Any], told: str) -> None:
    world = world_of("vm_rollback" if flow.startswith("vm") else flow)
    assert told in str(refused(world, flow, body))


@pytest.mark.parametrize("flow", ["network_create", "network_delete"])
def test_nobody_gets_a_port_in_a_network_that_comes_or_goes(flow: str) -> None:
    world = world_of(flow)
    submit(world, flow, {"network": "new" if flow == "network_create" else "spare"})
    name = "new" if flow == "network_create" else "spare"
    alter(world, "guest", CAST, phase="running")
    for other, body in (
        ("network_attach", {"guest": CAST, "network": name}),
        ("vm_create", {**body_of("vm_create", 0), "networks": [name]}),
        ("network_delete", {"network": name}),
    ):
        assert "task 1" in str(refused(world, other, body))


def test_the_33rd_snapshot() -> None:
    world = world_of("vm_snapshot")
    spec = json.loads(world.store.tables["guest"][CAST,]["spec"])
    alter(world, "guest", CAST, spec=encode({**spec, "snapshots": [f"s{at}" for at in range(32)]}))
    assert "32 snapshots" in str(refused(world, "vm_snapshot", {"guest": CAST, "name": "more"}))


def test_the_17th_port() -> None:
    world = world_of("network_attach")
    for at in range(15):
        name = f"n{at}"
        write(world, lambda tx, name=name: tx.put("network", {"name": name, "kind": "bridge", "task": None}))
        done(world, "network_attach", guest=CAST, network=name)
    macs = [row["mac"] for row in world.store.rows("port") if row["guest"] == CAST]
    assert len(set(macs)) == 16
    assert "16 ports" in str(refused(world, "network_attach", {"guest": CAST, "network": "spare"}))
    done(world, "network_detach", guest=CAST, network="n7")
    done(world, "network_attach", guest=CAST, network="spare")
    assert len({row["mac"] for row in world.store.rows("port") if row["guest"] == CAST}) == 16


def test_a_whole_life() -> None:
    """What one flow leaves is what the next one finds."""
    world = world_of("vm_rollback")
    before = picture(world)
    size = {"cpu_milli": 1000, "memory_mib": 512}
    done(world, "vm_create", name="life", **size, networks=["lan"], node="b")
    for flow, body in (
        ("vm_pause", {}),
        ("vm_resume", {}),
        ("vm_reboot", {}),
        ("vm_snapshot", {"name": "one"}),
        ("volume_attach", {"volume": "spare"}),
        ("volume_detach", {"volume": "spare"}),
        ("vm_migrate", {"to": "c"}),
        ("network_attach", {"network": "spare"}),
        ("vm_resize", {"cpu_milli": 2000}),
        ("vm_shutdown", {}),
        ("vm_rollback", {"name": "one"}),
        ("vm_clone", {"name": "twin", "node": "a"}),
        ("vm_start", {}),
        ("vm_stop", {}),
        ("vm_delete", {}),
    ):
        done(world, flow, guest=103, **body)
    done(world, "vm_delete", guest=104)
    assert run(world) == []
    assert picture(world) == before


@pytest.mark.parametrize("kind", ["vcluster", "agent"])
def test_a_whole_life_of_the_other_kinds(kind: str) -> None:
    world = world_of(f"{kind}_start")
    before = picture(world)
    done(world, f"{kind}_create", name="life", cpu_milli=500, memory_mib=512, networks=["lan"])
    lives: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "vcluster": [
            ("vcluster_sleep", {}),
            ("vcluster_wake", {}),
            ("vcluster_snapshot", {"name": "one"}),
            ("vcluster_resize", {"memory_mib": 2048}),
            ("vcluster_upgrade", {"version": "v1.32.4"}),
            ("vcluster_pause", {}),
            ("vcluster_resume", {}),
            ("vcluster_stop", {}),
            ("vcluster_restore", {"name": "one"}),
            ("vcluster_start", {}),
            ("vcluster_stop", {}),
        ],
        "agent": [
            ("agent_pause", {}),
            ("agent_checkpoint", {"name": "one"}),
            ("agent_resume", {}),
            ("network_detach", {"network": "lan"}),
            ("agent_stop", {}),
            ("network_attach", {"network": "lan"}),
            ("agent_restore", {"name": "one"}),
            ("agent_start", {}),
            ("agent_stop", {}),
        ],
    }
    for flow, body in lives[kind]:
        done(world, flow, guest=103, **body)
        claims = [row for row in world.store.rows("claim") if row["guest"] == 103]
        idle = kind == "agent" and world.store.tables["guest"][103,]["phase"] == "stopped"
        assert len(claims) == (0 if idle else 1)
    done(world, f"{kind}_delete", guest=103)
    assert run(world) == []
    assert picture(world) == before


# A drain.


def dry_run(world: World, node: str) -> list[str]:
    """What `blockers` says."""

    def look(tx: Tx) -> list[str]:
        return [str(blocker) for blocker in blockers(tx, node)]

    before = picture(world)
    told: list[str] = write(world, look)
    assert picture(world) == before
    return told


def test_a_drain_leaves_the_node_empty_and_closed_until_it_is_opened() -> None:
    world = world_of("node_drain")
    assert dry_run(world, "a") == []
    done(world, "node_drain", node="a")
    assert [row for row in world.store.rows("claim") if row["node"] == "a"] == []
    assert world.store.tables["node"]["a",]["open"] is False
    done(world, "node_drain", node="a")
    done(world, "node_open", node="a")
    assert world.store.tables["node"]["a",]["open"] is True
    assert run(world) == []


def test_the_dry_run_names_what_cannot_move() -> None:
    for flow, told in (
        ("vm_resume", f"vm {CAST} (paused): resume or stop it first"),
        ("vcluster_pause", f"vcluster {CAST} (running): no migration of this kind: clone it elsewhere and delete it"),
        ("agent_pause", f"agent {CAST} (running): no migration of this kind: stop it (its workspace stays here)"),
    ):
        assert dry_run(world_of(flow), "b") == [told]
    world = world_of("node_drain")
    alter(world, "node", "b", open=False)
    alter(world, "node", "c", cpu_milli=2_000)
    assert dry_run(world, "a") == [f"vm {CAST} (running): none of 1 open nodes has room beside the others that move"]


def test_a_drain_waits_for_what_is_in_its_way() -> None:
    world = world_of("vm_resume")
    submit(world, "node_drain", {"node": "b"})
    world.start(1)
    world.env.run(500.0)
    drain = world.store.tables["task"][1,]
    assert drain["status"] == "running"
    said = [json.loads(row["data"]) for row in world.store.rows("event") if row["kind"] == "refused"]
    assert f"vm {CAST} (paused): resume or stop it first" in said[-1]["reason"]
    submit(world, "vm_resume", {"guest": CAST})
    assert run(world) == []
    assert world.store.tables["task"][1,]["status"] == "done"
    assert world.store.tables["guest"][CAST,]["node"] != "b"


def test_a_second_drain_of_a_node() -> None:
    world = world_of("vm_resume")
    submit(world, "node_drain", {"node": "b"})
    for flow in ("node_drain", "node_open"):
        assert "drained by task 1" in str(refused(world, flow, {"node": "b"}))


def test_a_drain_that_is_aborted_opens_the_node_and_calls_its_migrations_back() -> None:
    world = world_of("node_drain")
    submit(world, "node_drain", {"node": "a"})
    # Copying takes longer than the abort.
    world.nodes.work_s = 20.0
    world.start(1)
    world.env.run(30.0)
    assert {row["flow"] for row in world.store.rows("task")} == {"node_drain", "vm_migrate"}
    write(world, lambda tx: cancel(tx, 1, "not today"))
    assert run(world) == []
    assert [row["status"] for row in world.store.rows("task")] == ["undone", "undone", "undone"]
    assert world.store.tables["node"]["a",]["open"] is True
    assert {row["guest"]: row["node"] for row in world.store.rows("claim")} == {100: "a", CAST: "a"}


def test_a_drain_without_room_elsewhere_gives_up_and_says_why() -> None:
    world = world_of("node_drain")
    for node in ("b", "c"):
        alter(world, "node", node, cpu_milli=500)
    submit(world, "node_drain", {"node": "a"})
    world.start(1)
    assert run(world) == []
    drain, *children = world.store.rows("task")
    assert (drain["status"], len(children)) == ("undone", 2 * TRIES)
    assert f"vm 100 (running): {TRIES} migrations failed" in drain["reason"]
    assert world.store.tables["node"]["a",]["open"] is True


def test_a_closed_node_takes_no_guests_and_keeps_those_that_it_has() -> None:
    world = world_of("node_drain")
    claims = world.store.rows("claim")
    for node in ("a", "b"):
        done(world, "node_close", node=node)
    done(world, "vm_create", name="new", cpu_milli=100, memory_mib=64)
    (new,) = (row for row in world.store.rows("claim") if row not in claims)
    assert new["node"] == "c"
    assert len(world.store.rows("claim")) == len(claims) + 1
    done(world, "node_open", node="a")
    assert [row["open"] for row in world.store.rows("node")] == [True, False, True]
    assert run(world) == []


def test_the_dry_run_knows_which_nodes_run_vms() -> None:
    world = world_of("node_drain")
    for node in ("b", "c"):
        alter(world, "node", node, taints='["gpve.no-vm"]')
    assert len(dry_run(world, "a")) == 2


def test_a_drain_of_a_closed_node_that_fails_leaves_it_closed() -> None:
    world = world_of("node_drain")
    for node in NODES:
        alter(world, "node", node, open=False)
    submit(world, "node_drain", {"node": "a"})
    world.start(1)
    assert run(world) == []
    assert world.store.tables["task"][1,]["status"] == "undone"
    assert world.store.tables["node"]["a",]["open"] is False


def test_a_mistake_in_an_undo_is_found() -> None:
    """The checks can fail: a delete that does not plug its ports again."""
    flow = FLOWS.newest("vm_delete")
    assert flow is not None
    steps = [replace(step, undo=step.do) if step.name == "unplug" else step for step in flow.steps]
    broken = type(FLOWS)([replace(flow, steps=steps)])
    trial = run_trial("vm_delete", [Injection("erase", "do", Fault.REFUSE)], placer, flows=broken)
    assert any("ports" in finding for finding in trial.findings)


@pytest.mark.parametrize("pool", ["a\x01", "\x00", "\x1b[31mb", "no such", "-a"])
def test_the_name_of_a_pool_is_a_name(pool: str) -> None:
    size = {"name": "v", "cpu_milli": 1, "memory_mib": 1}
    for flow, body, field in (
        ("vm_create", {**size, "disks": [{"size_gib": 1}, {"pool": pool, "size_gib": 1}]}, "disks.1.pool"),
        ("vcluster_create", {**size, "pool": pool}, "pool"),
        ("volume_create", {"volume": "v", "node": "a", "size_gib": 1, "pool": pool}, "pool"),
    ):
        world = world_of("node_drain")
        before = picture(world)
        error = refused(world, flow, body)
        assert isinstance(error, BadBody)
        assert error.field == field
        assert picture(world) == before


def test_high_availability_says_what_it_needs() -> None:
    size = {"name": "v", "cpu_milli": 1, "memory_mib": 1, "ha": True}
    with pytest.raises(BadBody, match="ha: its volumes must be in a shared pool"):
        request(FLOWS, "vm_create", size)
    assert request(FLOWS, "vm_create", {**size, "disks": [{"pool": "Ceph.ssd-1", "size_gib": 1}]}).body.ha
