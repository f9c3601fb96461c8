"""Agents from Python: spawn, enter, report."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PIPE = subprocess.PIPE


def run(kernel, policy, *command, **how):
    process = kernel.spawn(command, kernel.Policy(policy), stdout=PIPE, stderr=PIPE, **how)
    out, err = process.communicate(timeout=60)
    return process, out.decode().strip(), err.decode().strip()


def test_an_agent_runs_confined(sandbox):
    process, out, err = run(sandbox, "version = 1", "sh", "-c", "id -u; ls /; hostname; exit 3", hostname="tester")
    assert process.returncode == 3, err
    assert out.splitlines()[0] == "1000"
    assert out.splitlines()[-1] == "tester"
    assert "home" not in out
    assert process.applied["level"] == "L3"
    assert process.report["usage"]["memory_peak_bytes"] > 0


def test_denials_are_reported_by_name(sandbox):
    script = "import os\ntry: os.unshare(0x10000000)\nexcept OSError as e: print(e.errno)"
    if not hasattr(os, "unshare"):
        script = "import ctypes\nprint(ctypes.CDLL(None, use_errno=True).unshare(0x10000000), ctypes.get_errno())"
    process, out, _ = run(sandbox, "version = 1", "python3", "-c", script)
    assert out in ("1", "-1 1")
    assert process.report["denials"] == {"unshare": 1}


def test_it_starts_from_a_process_with_threads(sandbox):
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert run(sandbox, "version = 1", "true")[0].returncode == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_errors_are_one_sentence(sandbox):
    with pytest.raises(sandbox.SpawnError, match="exec: executing nothing-here failed: ENOENT"):
        run(sandbox, "version = 1", "nothing-here")
    with pytest.raises(sandbox.SpawnError, match="is not in the store"):
        run(sandbox, f"version = 1\n[root]\nimage = 'sha256:{'0' * 64}'", "true")
    with pytest.raises(sandbox.SpawnError, match="does not exist on this host"):
        run(sandbox, 'version = 1\n[files]\nread = ["/no/such"]', "true")


def test_signals_and_the_death_of_the_helper(sandbox):
    process = sandbox.spawn(["sleep", "60"], sandbox.Policy("version = 1"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    process = sandbox.spawn(["sleep", "61"], sandbox.Policy("version = 1\nlevel = 'L2'"))
    # (A program that is being executed has no command line for a moment.)
    assert within(5, lambda: sleeps("61"))
    process.kill()
    process.wait(timeout=10)
    assert within(5, lambda: not sleeps("61")), "the agent outlived its helper"


def within(seconds: float, what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (true := what()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return true


def sleeps(seconds: str) -> bool:
    commands = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(entry.read_bytes())
        except OSError:
            continue
    return f"sleep\0{seconds}\0".encode() in commands


def test_too_much_memory_is_told(sandbox):
    policy = 'version = 1\n[limits]\nmemory = "48MiB"'
    process, _, _ = run(sandbox, policy, "python3", "-c", "x = bytearray(300 << 20)")
    assert process.returncode == 128 + signal.SIGKILL
    assert process.report["usage"]["oom_kills"] >= 1


def test_as_another_user(sandbox):
    """A launcher that is not root: its agents get its own id, and a cgroup that it may not make is told."""
    script = textwrap.dedent("""
        import os
        import gpve_agent_kernel as kernel
        os.setgroups([]); os.setgid(12345); os.setuid(12345)
        policy = kernel.Policy('version = 1\\nlevel = "L2"')
        line = "id -u; cat /proc/self/uid_map; touch /workspace/x && echo ok"
        process = kernel.spawn(["sh", "-c", line], policy, stdout=-1)
        print(process.communicate()[0].decode())
        try:
            kernel.spawn(["true"], kernel.Policy("version = 1"))
        except OSError as error:
            print(error)
    """)
    from gpve_agent_kernel._spawn import launcher

    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        copy = shutil.copy(launcher(), place)
        Path(copy).chmod(0o755)
        env = {**os.environ, "GPVE_AGENT_LAUNCH": copy}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd="/", env=env
        )
    lines = done.stdout.split("\n")
    assert lines[0] == "1000", done.stderr
    assert lines[1].split() == ["1000", "12345", "1"]
    assert lines[2] == "ok"
    assert "cgroup" in done.stdout


ENTER = """
import json, os
import gpve_agent_kernel as kernel
identity = "[identity]\\nuid = 4321\\ngid = 4321" if os.geteuid() == 0 else ""
applied = kernel.enter(kernel.Policy('version = 1\\nlevel = "L1"\\n' + identity))
for path in ("/root", "/tmp", "/etc/shadow"):
    try:
        os.open(path, os.O_RDONLY)
        print("opened", path)
    except OSError as error:
        print(error.errno)
print(kernel.report()["seccomp"], kernel.report()["no_new_privileges"], os.geteuid() != 0, applied["level"])
"""


def test_enter_is_for_good(kernel):
    if kernel.host()["landlock"] < 6:
        pytest.skip("needs Landlock ABI 6")
    done = subprocess.run([sys.executable, "-c", ENTER], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout.split("\n")[:4] == ["13", "13", "13", "2 True True L1"], done.stderr


def test_enter_refuses_threads_and_levels(kernel):
    script = """
import threading, gpve_agent_kernel as kernel
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
for text in ('version = 1', 'version = 1\\nlevel = "L1"'):
    try:
        kernel.enter(kernel.Policy(text))
        print("entered")
    except OSError as error:
        print(error)
stop.set()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd="/")
    first, second = done.stdout.strip().split("\n")
    assert "needs namespaces" in first
    assert "2 threads" in second
