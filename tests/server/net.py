"""Network namespaces that a test makes and unmakes: one with the servers, and one for each node, by a cable."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator

HUB = "10.77.0.1"
_LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


class Net:
    """A hub, which has the address `HUB`, and a namespace for each name, which reaches nothing but the hub."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._holders = {name: _hold() for name in ("hub", *names)}
        self._run("hub", "ip", "link", "set", "lo", "up")
        self._run("hub", "ip", "link", "add", "br0", "type", "bridge")
        self._run("hub", "ip", "addr", "add", f"{HUB}/24", "dev", "br0")
        self._run("hub", "ip", "link", "set", "br0", "up")
        for at, name in enumerate(names):
            pid = str(self._holders[name].pid)
            self._run("hub", "ip", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", pid)
            self._run("hub", "ip", "link", "set", f"to-{name}", "master", "br0", "up")
            self._run(name, "ip", "link", "set", "lo", "up")
            self._run(name, "ip", "addr", "add", f"10.77.0.{10 + at}/24", "dev", "eth0")
            self._run(name, "ip", "link", "set", "eth0", "up")

    def within(self, name: str) -> list[str]:
        """What to put before a command to run it there."""
        return ["nsenter", f"--net=/proc/{self._holders[name].pid}/ns/net"]

    def _run(self, name: str, *command: str) -> None:
        subprocess.run([*self.within(name), *command], check=True, capture_output=True)

    def cut(self, name: str) -> None:
        """Pull a cable: nothing passes, and nobody is told."""
        self._run("hub", "ip", "link", "set", f"to-{name}", "down")

    def mend(self, name: str) -> None:
        """Plug it in again."""
        self._run("hub", "ip", "link", "set", f"to-{name}", "up")

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and what it starts, is in that namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self._holders[name].pid}/ns/net", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(home)
            os.close(home)
            os.close(there)

    def end(self) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()


def _hold() -> "subprocess.Popen[bytes]":
    """A process that keeps a new namespace alive."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 3600"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
