"""The flows of the first slice under every single fault, and under pairs of faults, in the simulated world."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import cache

import pytest
from gpve_sim.policies import load
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Fault, Injection
from gpve_sim.world.sweep import Point, pairs, points_of, singles
from gpve_sim.world.sweeping import parts_of, run_part, sweep_faults, total
from gpve_sim.world.trial import Trial, run_trial
from typer.testing import CliRunner

from gpve.cli.main import app
from gpve.model.errors import InputError
from gpve.tasks import machine
from gpve.tasks.flows import FLOWS
from gpve.world.placement import SchedulerPlacer

SLICE = ("vm_create", "vm_migrate", "agent_start")
TAKES_OVER = (Fault.LEASE_STOLEN, Fault.CRASH_BEFORE_SEND, Fault.CRASH_BEFORE_RECORD, Fault.CRASH_AFTER_RECORD)


def placer() -> SchedulerPlacer:
    return SchedulerPlacer(load("best-fit"))


@cache
def points(flow: str) -> list[Point]:
    return points_of(flow, placer)


def check(trial: Trial, plan: tuple[Injection, ...]) -> None:
    told = " and ".join(map(str, plan))
    assert trial.findings == [], f"{told}: {trial.findings}"
    assert trial.status in ("done", "undone"), f"{told}: {trial.status}"


@pytest.mark.parametrize("flow", SLICE)
def test_every_undo_is_reached(flow):
    """The sweep is worth nothing if it never comes there."""
    seen = {(point.step, point.direction) for point in points(flow)}
    for step in FLOWS.newest(flow).steps:
        assert (step.name, "do") in seen
        if step.undo is not None:
            assert (step.name, "undo") in seen


@pytest.mark.parametrize("flow", SLICE)
def test_every_single_fault(flow):
    """The fault fires, the task ends done or undone, nothing is left; every moment between is in order as well."""
    for seed, plan in enumerate(singles(points(flow))):
        worlds: list[World] = []

        def watched(*arguments, worlds=worlds, **options):
            worlds.append(World(*arguments, audited=True, **options))
            return worlds[0]

        trial = run_trial(flow, plan, placer, seed, make_world=watched)
        check(trial, plan)
        assert worlds[0].findings == [], f"{plan[-1]}: {worlds[0].findings[:3]}"
        assert set(trial.fired) == set(plan), f"{plan[-1]} did not fire"
        if plan[-1].fault in TAKES_OVER:
            taken = [row for row in trial.log if row["kind"] == "claimed"]
            assert (
                len(taken) > 1
                or trial.log[-1]["revision"] <= max(row["revision"] for row in taken) + 1
                or (plan[-1].fault is Fault.CRASH_AFTER_RECORD)
            ), f"{plan[-1]}: nobody took over"


@pytest.mark.parametrize("part", range(4))
def test_pairs_of_faults_sampled(part):
    """A seeded sample of all pairs on all three flows."""
    chosen = random.Random(part)
    fired = 0
    for flow in SLICE:
        every = list(pairs(points(flow)))
        for seed, plan in enumerate(chosen.sample(every, 250)):
            trial = run_trial(flow, plan, placer, seed)
            check(trial, plan)
            fired += set(trial.fired) == set(plan)
    assert fired > 200


@pytest.mark.full
@pytest.mark.parametrize("part", range(8))
def test_all_pairs_of_faults_on_a_migration(part):
    """Every two faults, undo steps included. Some exclude each other: the first keeps the second from its step."""
    fired = total = 0
    for seed, plan in enumerate(pairs(points("vm_migrate"))):
        if seed % 8 == part:
            trial = run_trial("vm_migrate", plan, placer, seed)
            check(trial, plan)
            total += 1
            fired += set(trial.fired) == set(plan)
    assert total > 1000
    assert fired > total // 3


def test_same_seed_same_log():
    """Byte for byte, with faults and jitter."""
    plan = (Injection("prepare", "do", Fault.ANSWER_LOST), Injection("transfer", "do", Fault.REFUSE))
    assert run_trial("vm_migrate", plan, placer, 5).log == run_trial("vm_migrate", plan, placer, 5).log


TINY = ["node_open", "vm_pause"]


def test_a_sweep_counts_its_worlds_and_goes_on_where_it_stood(tmp_path):
    whole = sweep_faults(TINY, tmp_path / "whole", workers=1)
    assert sum(part.count for part in parts_of(TINY)) == total(whole).worlds > 900
    assert total(whole).fired > 500
    assert (total(whole).wrong, total(whole).stuck) == (0, 0)
    # Half of the parts, and half a line, as a kill leaves it.
    sweep_faults(TINY, tmp_path / "killed", workers=1, per_part=200)
    file = tmp_path / "killed" / "parts.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    shown = []
    again = sweep_faults(TINY, tmp_path / "killed", 1, 200, lambda done, total: shown.append(done))
    assert again == whole
    assert shown[0] == sum(json.loads(line)["figures"]["worlds"] for line in lines[:3])
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_sweep_that_is_killed_loses_at_most_a_part(tmp_path):
    command = [sys.executable, "-c", "from gpve.cli.main import main; main()", "sweep-faults"]
    command += ["--flow", "vm_stop", "--flow", "vm_start", "--workers", "1", "--out", str(tmp_path), "--json"]
    file = tmp_path / "parts.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ) as run:
        end = time.monotonic() + 60.0
        while time.monotonic() < end and not (file.exists() and file.stat().st_size):
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
    kept = file.read_bytes().splitlines()
    assert 1 <= len(kept) < len(parts_of(["vm_stop", "vm_start"]))
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert file.read_bytes().splitlines()[:1] == kept[:1]
    wanted = sweep_faults(["vm_stop", "vm_start"], tmp_path / "whole", workers=2)
    assert said["total"] == asdict(total(wanted))


def test_a_sweep_on_dask_has_the_same_figures(tmp_path):
    distributed = pytest.importorskip("distributed")
    here = sweep_faults(["vm_stop"], tmp_path / "here", workers=1)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster:
        there = sweep_faults(["vm_stop"], tmp_path / "there", per_part=100, dask=cluster.scheduler_address)
    assert total(there) == total(here)


def test_a_sweep_says_what_it_found(monkeypatch, tmp_path):
    owed = machine._owed
    monkeypatch.setattr(machine, "_owed", lambda flow, state: owed(flow, state)[1:])
    part = next(part for part in parts_of(["vm_pause"]) if part.kind == "single")
    figures = run_part(part)
    assert figures.wrong > 0
    assert figures.findings[0]["flow"] == "vm_pause"
    assert figures.findings[0]["faults"]
    run = CliRunner().invoke(app, ["sweep-faults", "--flow", "vm_pause", "--workers", "1", "--out", str(tmp_path)])
    assert run.exit_code == 1
    assert "total" in run.stdout


def test_a_sweep_of_no_such_flow(tmp_path):
    with pytest.raises(InputError, match="no flow 'vm_fly'"):
        sweep_faults(["vm_fly"], tmp_path)
