"""Starting an agent from Python: by a small static program, since an interpreter must not be forked into a sandbox."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gpve_agent_kernel._native import Policy

#: What every program needs; nothing of the caller's own environment.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/workspace", "LANG": "C.UTF-8"}
Stream = int | IO[Any] | None


class SpawnError(OSError):
    """The agent was not started; the message names the layer, what was tried, and why it failed."""


def launcher() -> Path:
    """The program that starts agents."""
    named = os.environ.get("GPVE_AGENT_LAUNCH")
    return Path(named) if named else Path(__file__).with_name("bin") / "gpve-agent-launch"


class Process:
    """An agent that runs."""

    def __init__(self, helper: subprocess.Popen[bytes], results: IO[str], applied: dict[str, Any]) -> None:
        self._helper = helper
        self._results = results
        #: What is truly in force, layer by layer.
        self.applied = applied
        #: What it used and was denied; there when it has ended.
        self.report: dict[str, Any] | None = None
        self.stdin, self.stdout, self.stderr = helper.stdin, helper.stdout, helper.stderr

    @property
    def pid(self) -> int:
        """The helper's process id: signals to it are passed on."""
        return self._helper.pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end: the exit code, or 128 and the signal's number; TimeoutExpired if it takes longer."""
        code = self._helper.wait(timeout)
        self._end()
        return code

    def communicate(self, input: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Send ``input``, read what it writes, and wait for the end."""
        out, err = self._helper.communicate(input, timeout)
        self._end()
        return out or b"", err or b""

    @property
    def returncode(self) -> int | None:
        """The exit code, once it has been waited for."""
        return self._helper.returncode

    def send_signal(self, signal: int) -> None:
        """Send a signal to its main program."""
        self._helper.send_signal(signal)

    def kill(self) -> None:
        """Kill it and everything it has started."""
        self._helper.kill()

    def _end(self) -> None:
        if self.report is None:
            last = self._results.readline()
            self.report = json.loads(last)["report"] if last else {}
            self._results.close()


def spawn(
    command: Sequence[str],
    policy: Policy,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    hostname: str | None = None,
    image: str | os.PathLike[str] | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
) -> Process:
    """Start a command under a policy. When this returns, it runs, with every layer in force; SpawnError otherwise.

    ``env`` is added to a small environment of its own (PATH, HOME, LANG). ``image`` is the directory to which the
    image was unpacked that the policy names. Streams are as those of subprocess.Popen. The agent ends when its helper
    does.
    """
    request = {
        "policy": json.loads(policy.to_json()),
        "argv": list(command),
        "env": {**ENVIRONMENT, **(env or {})},
        "cwd": cwd,
        "hostname": hostname,
        "image": os.fspath(image) if image is not None else None,
    }
    memory = os.memfd_create("gpve-request")
    read, write = os.pipe()
    try:
        os.write(memory, json.dumps(request).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        helper = subprocess.Popen(
            [str(launcher()), str(memory), str(write)],
            pass_fds=(memory, write),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={},
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(memory)
        os.close(write)
    results = os.fdopen(read)
    first = json.loads(results.readline() or '{"error": "the helper died before it said anything"}')
    if "error" in first:
        results.close()
        for stream in (helper.stdin, helper.stdout, helper.stderr):
            if stream is not None:
                stream.close()
        helper.wait()
        raise SpawnError(first["error"])
    return Process(helper, results, first["applied"])
