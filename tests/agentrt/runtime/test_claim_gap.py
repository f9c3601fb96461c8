"""The daemon is killed at every call of a claim, one after another, not at random moments.

A tracer of the daemon alone (its spawners are processes of their own) kills it when it enters the call, so the call
itself is not made.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.agentrt.runtime.daemon import Daemon, new_id, pb
from tests.agentrt.runtime.test_kill import CLAIMED, RUNNING, runs, until

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (make packages)")

GO = '"g", 1, MSG_NOSIGNAL'
"""How a trace shows that an instance, which has heard what to be, is let go."""


@contextlib.contextmanager
def killed_at(daemon: Daemon, call: str, nth: int, trace: Path) -> Iterator[None]:
    """The daemon dies when one of its threads enters its ``nth`` such call from now on."""
    told = ["strace", "-f", "-qq", "-p", str(daemon.pid), "-o", str(trace), "-e", f"trace={call}"]
    tracer = subprocess.Popen([*told, "-e", f"inject={call}:signal=SIGKILL:when={nth}"])
    try:
        threads = Path(f"/proc/{daemon.pid}/task")
        until(lambda: all(f"TracerPid:\t{tracer.pid}" in (at / "status").read_text() for at in threads.iterdir()))
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def was_killed(daemon: Daemon) -> bool:
    assert daemon.process is not None
    with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.process.wait(0.5)
    return daemon.process.returncode == -9


def pooled(daemon: Daemon, template: str) -> int:
    """How many instances of a template wait."""
    listed = daemon.call.ListTemplates(pb.ListTemplatesRequest()).templates
    return next((one.pooled for one in listed if one.name == template), 0)


def killed_at_every(daemon: Daemon, call: str, no_fork: bool, trace: Path, template: str = "t") -> list[str]:
    """Claims, until one makes no further such call; each, asked again, has led to one run.

    Returns the calls that were not made, as a trace shows them.
    """
    daemon.template(template, policy="version = 1", pool=1, no_fork=no_fork)
    not_made = []
    for nth in range(1, 100):
        # What the claim takes is there: the claim alone makes calls.
        until(lambda: pooled(daemon, template) >= 1, 60)
        request = pb.ClaimRequest(request_id=new_id(), id=f"a{nth}", template=template, argv=["-c", CLAIMED])
        with killed_at(daemon, call, nth, trace):
            with contextlib.suppress(grpc.RpcError):
                daemon.call.Claim(request, timeout=60)
            died = was_killed(daemon)
        if died:
            not_made += [line for line in trace.read_text().splitlines() if "(" in line][-1:]
            daemon.start()
        daemon.call.Claim(request, timeout=60)
        assert daemon.agent(request.id).state == RUNNING, not_made[-1:]
        until(lambda id=request.id: runs(daemon, id) >= 1)
        time.sleep(0.02)
        assert runs(daemon, request.id) == 1, not_made[-1:]
        daemon.delete(request.id)
        if not died:
            return not_made
    raise AssertionError("a claim makes more calls than were tried")


@pytest.mark.parametrize("no_fork", [False, True], ids=["forked", "started"])
def test_at_every_message_of_a_claim(daemon: Daemon, no_fork: bool, tmp_path: Path) -> None:
    """Between the record of the agent and the word that it may begin, too: the next daemon says that word."""
    not_sent: list[str] = []
    for attempt in range(5):
        not_sent += killed_at_every(daemon, "sendto", no_fork, tmp_path / "trace", f"t{attempt}")
        if any(GO in line for line in not_sent):
            return
        # The daemon answered a ping meanwhile: that was counted in the place of the word.
    raise AssertionError(not_sent)


@pytest.mark.full
@pytest.mark.parametrize("call", ["write", "rename", "openat", "mkdir", "fcntl", "recvfrom"])
def test_at_every_other_call_of_a_claim(daemon: Daemon, call: str, tmp_path: Path) -> None:
    assert killed_at_every(daemon, call, False, tmp_path / "trace"), "no claim makes such a call"
