"""Agents that run only while their host has a lease: they end by themselves, whoever else is dead."""

import os
import shutil
import signal
import time
from pathlib import Path

import grpc
import pytest

from tests.agentrt.runtime.daemon import Daemon, pb
from tests.agentrt.runtime.test_templates import until


def now_ms() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)


def extend(daemon: Daemon, for_ms: int) -> int:
    end = now_ms() + for_ms
    daemon.call.ExtendLease(pb.ExtendLeaseRequest(until_boottime_ms=end))
    return end


def leased(daemon: Daemon, *argv: str, when: int = pb.RestartPolicy.WHEN_ALWAYS, **spec: object) -> str:
    return daemon.run(*argv, leased=True, restart=pb.RestartPolicy(when=when), **spec)


SLEEP = ("/bin/sleep", "1000")
LOOP = ("/bin/sh", "-c", "trap '' TERM; (setsid sleep 1000 &) ; while :; do sleep 0.01; done")


def test_a_leased_agent_ends_with_the_lease_and_not_before(daemon: Daemon) -> None:
    first = extend(daemon, 3_000)
    id, other = leased(daemon, *LOOP), daemon.run(*LOOP)
    end = first
    while now_ms() < first + 500:
        time.sleep(0.2)
        end = extend(daemon, 2_500)
        assert daemon.agent(id).state == pb.STATE_RUNNING
    exit = daemon.wait(id).last_exit
    assert (exit.reason, exit.signal) == (pb.EXIT_REASON_LEASE, signal.SIGKILL), "its restart policy does not undo it"
    assert now_ms() >= end
    assert "lease" in exit.detail
    assert daemon.agent(other).state == pb.STATE_RUNNING
    with pytest.raises(grpc.RpcError, match="extend it first") as refused:
        daemon.start_agent(id)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    extend(daemon, 60_000)
    daemon.start_agent(id)
    assert daemon.agent(id).state == pb.STATE_RUNNING


def test_everybody_else_is_dead(daemon: Daemon) -> None:
    """Daemon and spawners are killed at once; the next daemon learns why the agent ended."""
    end = extend(daemon, 3_000)
    id, other = leased(daemon, *LOOP), daemon.run(*LOOP)
    pid, others_pid = daemon.agent(id).pid, daemon.agent(other).pid
    spawners = daemon.spawner_pids()
    daemon.kill()
    for spawner in spawners:
        os.kill(spawner, signal.SIGKILL)
    assert Path(f"/proc/{pid}").exists()
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert now_ms() >= end
    assert Path(f"/proc/{others_pid}").exists()
    daemon.start()
    assert daemon.wait(id).last_exit.reason == pb.EXIT_REASON_LEASE
    assert daemon.agent(other).state == pb.STATE_RUNNING


def test_no_lease_no_start(daemon: Daemon) -> None:
    """Nor by a restart that is due, nor by a lease of another boot, nor for longer than an hour."""
    id = daemon.create(*SLEEP, leased=True)
    with pytest.raises(grpc.RpcError, match="extend it first"):
        daemon.start_agent(id)
    assert daemon.agent(id).state == pb.STATE_CREATED
    with pytest.raises(grpc.RpcError, match="more than an hour"):
        extend(daemon, 2 * 3_600_000)
    extend(daemon, 30_000)
    lease = daemon.root / "lease"
    whole = lease.read_bytes()
    lease.write_bytes(whole[:8] + b"0" * 36)
    with pytest.raises(grpc.RpcError, match="extend it first"):
        daemon.start_agent(id)
    shutil.copyfile("/dev/null", lease)
    extend(daemon, 3_000)
    delays = pb.RestartPolicy(when=pb.RestartPolicy.WHEN_ALWAYS, first_delay_ms=3_200, max_delay_ms=3_200)
    again = daemon.run("/bin/sh", "-c", "exit 3", leased=True, restart=delays)
    until(lambda: daemon.agent(again).state == pb.STATE_EXITED)
    assert daemon.agent(again).last_exit.reason == pb.EXIT_REASON_LEASE


def test_a_frozen_agent_is_not_thawed_without_a_lease(daemon: Daemon) -> None:
    end = extend(daemon, 3_000)
    id = leased(daemon, *LOOP)
    daemon.call.Pause(pb.PauseRequest(id=id))
    time.sleep(max(0.0, end - now_ms()) / 1000 + 0.2)
    with pytest.raises(grpc.RpcError, match="extend it first"):
        daemon.call.Resume(pb.ResumeRequest(id=id))
    assert daemon.agent(id).state == pb.STATE_PAUSED
    extend(daemon, 60_000)
    assert daemon.call.Resume(pb.ResumeRequest(id=id)).agent.state == pb.STATE_RUNNING
    time.sleep(0.3)
    assert daemon.agent(id).state == pb.STATE_RUNNING, "the timer that went off meanwhile is set anew"


def test_an_agent_cannot_reach_its_lease(daemon: Daemon) -> None:
    """Neither the file nor the timer is among what the program has, and init hears no signal of it."""
    extend(daemon, 3_000)
    code = "ls /proc/1/fd >/dev/null 2>&1 && echo sees; kill -STOP 1; kill -9 1; echo tried; sleep 99"
    id = leased(daemon, "/bin/sh", "-c", code)
    assert daemon.wait(id).last_exit.reason == pb.EXIT_REASON_LEASE
    said = daemon.logs(id).split()
    assert b"tried" in said
    assert b"sees" not in said


def test_many_end_at_once_and_leave_nothing(daemon: Daemon) -> None:
    extend(daemon, 8_000)
    ids = [leased(daemon, *SLEEP) for _ in range(30)]
    assert {daemon.wait(id).last_exit.reason for id in ids} == {pb.EXIT_REASON_LEASE}
    # The fixture looks for processes, mounts, cgroups and files that are left.
    for id in ids:
        daemon.delete(id)
