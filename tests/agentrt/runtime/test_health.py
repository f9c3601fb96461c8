"""Health, restarts, time to live, idleness: each against the real daemon."""

import time
from typing import Any

import pytest

from tests.agentrt.runtime.daemon import SLEEP, Daemon, pb
from tests.agentrt.runtime.test_kill import runs, until
from tests.agentrt.runtime.test_verbs import until_logged

ON_FAILURE = pb.RestartPolicy(when=pb.RestartPolicy.WHEN_ON_FAILURE, first_delay_ms=10)
ALWAYS = pb.RestartPolicy(when=pb.RestartPolicy.WHEN_ALWAYS, first_delay_ms=10)
SERVER = """
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sick = os.path.exists('sick')
        self.send_response(500 if sick else 200); self.end_headers()
    def log_message(self, *a): pass
print('up', flush=True)
http.server.HTTPServer(('127.0.0.1', 8080), H).serve_forever()
"""


def check(**given: Any) -> Any:
    return pb.HealthCheck(**{"period_ms": 50, "timeout_ms": 2000, "failure_threshold": 2, **given})


def kinds(daemon: Daemon, id: str) -> list[str]:
    return [e.kind for e in daemon.events(id=id)]


def test_http_readiness_comes_and_goes(daemon: Daemon) -> None:
    probe = check(http=pb.HealthCheck.HttpProbe(port=8080, path="/health"))
    id = daemon.run("/usr/bin/python3", "-c", SERVER, health=pb.HealthChecks(readiness=probe))
    assert daemon.call.Wait(pb.WaitRequest(id=id, until_ready=True, timeout_ms=20000)).agent.ready
    daemon.exec(id, "/usr/bin/touch", "sick")
    until(lambda: not daemon.agent(id).ready)
    assert "status 500" in next(e for e in daemon.events(id=id) if e.kind == "unready").detail
    daemon.exec(id, "/bin/rm", "sick")
    until(lambda: daemon.agent(id).ready)
    assert daemon.agent(id).state == pb.STATE_RUNNING


def test_tcp_startup_then_liveness_ends_and_restarts(daemon: Daemon) -> None:
    health = pb.HealthChecks(
        startup=check(tcp=pb.HealthCheck.TcpProbe(port=8080), failure_threshold=1000),
        liveness=check(http=pb.HealthCheck.HttpProbe(port=8080)),
    )
    id = daemon.run("/usr/bin/python3", "-c", SERVER, health=health, restart=ON_FAILURE)
    daemon.call.Wait(pb.WaitRequest(id=id, until_ready=True, timeout_ms=20000))
    pid = daemon.agent(id).pid
    daemon.exec(id, "/usr/bin/touch", "sick")
    until(lambda: daemon.agent(id).last_exit.reason == pb.EXIT_REASON_HEALTH)
    assert "liveness check failed: GET / at port 8080: status 500" in daemon.agent(id).last_exit.detail
    until(lambda: daemon.agent(id).state == pb.STATE_RUNNING and daemon.agent(id).pid != pid)


def test_a_startup_check_that_never_succeeds(daemon: Daemon) -> None:
    health = pb.HealthChecks(
        startup=check(tcp=pb.HealthCheck.TcpProbe(port=1)),
        liveness=check(exec=pb.HealthCheck.ExecProbe(argv=["/bin/sh", "-c", "echo >> asked"])),
    )
    id = daemon.run(*SLEEP, health=health)
    exit = daemon.wait(id).last_exit
    assert exit.reason == pb.EXIT_REASON_HEALTH
    assert "startup check failed: port 1" in exit.detail
    daemon.start_agent(id)
    assert daemon.exec(id, "/bin/cat", "asked")[0] != 0, "liveness was asked before the agent had started up"


def test_exec_liveness_and_its_timeout(daemon: Daemon) -> None:
    hangs = check(exec=pb.HealthCheck.ExecProbe(argv=["/bin/sleep", "60"]), timeout_ms=100, failure_threshold=1)
    id = daemon.run(*SLEEP, health=pb.HealthChecks(liveness=hangs))
    exit = daemon.wait(id).last_exit
    assert "/bin/sleep did not end within 100 ms" in exit.detail
    fails = check(exec=pb.HealthCheck.ExecProbe(argv=["/bin/sh", "-c", "exit 3"]), failure_threshold=1)
    id = daemon.run(*SLEEP, health=pb.HealthChecks(liveness=fails))
    assert "/bin/sh exited with 3" in daemon.wait(id).last_exit.detail


def test_heartbeat(daemon: Daemon) -> None:
    beat = pb.HealthChecks(liveness=check(heartbeat=pb.HealthCheck.HeartbeatProbe(max_age_ms=400), failure_threshold=1))
    script = (
        "i=0; while [ $i -lt 20 ]; do echo x >&$GPVE_HEARTBEAT_FD; i=$((i+1)); sleep 0.05; done; echo quiet; sleep 100"
    )
    id = daemon.run("/bin/sh", "-c", script, health=beat)
    until_logged(daemon, id, b"quiet")
    assert daemon.agent(id).state == pb.STATE_RUNNING
    assert daemon.stats(id).heartbeats >= 20
    exit = daemon.wait(id).last_exit
    assert exit.reason == pb.EXIT_REASON_HEALTH
    assert "no heartbeat for" in exit.detail


def test_progress(daemon: Daemon) -> None:
    progress = check(progress=pb.HealthCheck.ProgressProbe(min_cpu_us=500), period_ms=300, failure_threshold=2)
    health = pb.HealthChecks(liveness=progress)
    busy = daemon.run("/bin/sh", "-c", "while :; do :; done", health=health)
    stuck = daemon.run(*SLEEP, health=health)
    assert "no progress" in daemon.wait(stuck).last_exit.detail
    assert daemon.agent(busy).state == pb.STATE_RUNNING


def test_pausing_stops_the_clocks(daemon: Daemon) -> None:
    beat = pb.HealthChecks(
        liveness=check(heartbeat=pb.HealthCheck.HeartbeatProbe(max_age_ms=1200), failure_threshold=1)
    )
    # Looked at more often than it beats: the first look after a pause finds a beat from before it.
    script = "while :; do echo x >&$GPVE_HEARTBEAT_FD; sleep 0.3; done"
    id = daemon.run("/bin/sh", "-c", script, health=beat, ttl_ms=4000, stop_grace_ms=1)
    daemon.call.Pause(pb.PauseRequest(id=id))
    left = daemon.agent(id).ttl_left_ms
    time.sleep(1.5)
    assert daemon.agent(id).ttl_left_ms == left
    daemon.kill()
    daemon.start()
    assert daemon.agent(id).ttl_left_ms == left
    daemon.call.Resume(pb.ResumeRequest(id=id))
    time.sleep(0.3)
    assert daemon.agent(id).state == pb.STATE_RUNNING, daemon.agent(id).last_exit
    exit = daemon.wait(id).last_exit
    assert exit.reason == pb.EXIT_REASON_TTL, exit


def test_time_to_live(daemon: Daemon) -> None:
    id = daemon.run(*SLEEP, ttl_ms=300, restart=ALWAYS)
    exit = daemon.wait(id).last_exit
    assert exit.reason == pb.EXIT_REASON_TTL
    gone = daemon.run(*SLEEP, ttl_ms=300, ttl_action=pb.TTL_ACTION_DELETE)
    until(lambda: not [a for a in daemon.call.List(pb.ListRequest()).agents if a.id == gone])
    late = daemon.run(*SLEEP, ttl_ms=300)
    daemon.kill()
    time.sleep(0.5)
    daemon.start()
    assert daemon.wait(late).last_exit.reason == pb.EXIT_REASON_TTL


def test_idle_agents_sleep_and_wake_for_whoever_enters(daemon: Daemon) -> None:
    id = daemon.run(*SLEEP, idle_pause_ms=300)
    busy = daemon.run("/bin/sh", "-c", "while :; do :; done", idle_pause_ms=300)
    daemon.wait(id, pb.STATE_PAUSED)
    assert daemon.agent(id).pause_cause == "idle"
    daemon.kill()
    daemon.start()
    assert daemon.agent(id).state == pb.STATE_PAUSED
    assert daemon.exec(id, "/bin/echo", "woken")[1] == b"woken\n"
    assert daemon.agent(id).state == pb.STATE_RUNNING
    daemon.wait(id, pb.STATE_PAUSED)
    assert daemon.agent(busy).state == pb.STATE_RUNNING


def test_an_exec_that_goes_on_keeps_the_agent_awake(daemon: Daemon) -> None:
    id = daemon.run(*SLEEP, idle_pause_ms=200)
    assert daemon.exec(id, "/bin/sleep", "1")[0] == 0
    assert "paused" not in kinds(daemon, id)


def test_restart_always_never_and_bounded(daemon: Daemon) -> None:
    never = daemon.run("/bin/sh", "-c", "echo run; exit 1")
    always = daemon.run("/bin/sh", "-c", "echo run; exit 0", restart=ALWAYS)
    bounded = pb.RestartPolicy(when=pb.RestartPolicy.WHEN_ON_FAILURE, first_delay_ms=1, max_restarts=2)
    twice = daemon.run("/bin/sh", "-c", "echo run; exit 1", restart=bounded)
    fine = daemon.run("/bin/sh", "-c", "echo run; exit 0", restart=ON_FAILURE)
    for id, count in [(never, 1), (twice, 3), (fine, 1)]:
        daemon.wait(id)
        assert runs(daemon, id) == count, id
    until(lambda: runs(daemon, always) > 3)
    assert daemon.call.Stop(pb.StopRequest(id=always)).agent.state == pb.STATE_EXITED


def test_a_restart_keeps_the_workspace_and_goes_fast(daemon: Daemon) -> None:
    id = daemon.run("/bin/sh", "-c", "echo run; echo x >> count; [ $(wc -l < count) = 3 ]; exit $?", restart=ON_FAILURE)
    daemon.wait(id)
    assert runs(daemon, id) == 3


@pytest.mark.parametrize("signal", [6, 11, 15])
def test_a_signal_is_a_failure(daemon: Daemon, signal: int) -> None:
    id = daemon.run("/bin/sh", "-c", f"kill -{signal} $$")
    exit = daemon.wait(id).last_exit
    assert (exit.reason, exit.signal) == (pb.EXIT_REASON_SIGNAL, signal)


def test_limits_that_end_a_program(daemon: Daemon) -> None:
    cpu = daemon.run("/bin/sh", "-c", "while :; do :; done", policy="version = 1\n[limits]\ncpu_seconds = 1\n")
    size = daemon.run(
        "/bin/sh", "-c", "exec head -c 10000000 /dev/zero > big", policy='version = 1\n[limits]\nfile_size = "1 MiB"\n'
    )
    exit = daemon.wait(size).last_exit
    assert (exit.reason, exit.detail.split(":")[0]) == (pb.EXIT_REASON_LIMIT, "file-size")
    exit = daemon.wait(cpu).last_exit
    assert (exit.reason, exit.detail.split(":")[0]) == (pb.EXIT_REASON_LIMIT, "cpu-time"), exit
