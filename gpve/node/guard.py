"""The guard of a node: ends agents with ha when their node's lease is over, also when no node agent is there any more.

A process of its own, which the node agent starts and which outlives it. The node agent writes until when it has its
lease; without a guard it does not beat, so it gets none. ``python -m gpve.node.guard DIRECTORY SOCKET``
"""

import fcntl
import logging
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import grpc

from gpve.runtime.v1 import runtime_pb2 as pb
from gpve.runtime.v1 import runtime_pb2_grpc

LOG = logging.getLogger(__name__)
LOOK_S = 0.25
HA = "gpve.ha"
LIVE = (pb.STATE_STARTING, pb.STATE_RUNNING, pb.STATE_PAUSED, pb.STATE_STOPPING, pb.STATE_BACKOFF, pb.STATE_CRASH_LOOP)
LEASE = struct.Struct("=d")


class Guard:
    """The guard as its node agent sees it."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self._directory, self._socket = directory, socket
        self._lease = os.open(directory / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def alive(self) -> bool:
        """Whether it is there; it is started if not."""
        if _held(self._directory):
            return True
        command = [sys.executable, "-m", "gpve.node.guard", str(self._directory), str(self._socket)]
        with (self._directory / "guard.log").open("ab") as log:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            if _held(self._directory):
                return True
            time.sleep(0.02)
        return False

    def lease(self, until: float) -> None:
        """Until when agents with ha may run (`gpve.node.node.clock`)."""
        os.pwrite(self._lease, LEASE.pack(until), 0)


def _held(directory: Path) -> bool:
    """Whether somebody holds the guard's lock."""
    file = os.open(directory / "guard.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def main(directory: Path, socket: Path) -> None:
    """Watch the lease for ever; end when the directory is gone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    lock = os.open(directory / "guard.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    daemon = runtime_pb2_grpc.RuntimeServiceStub(grpc.insecure_channel(f"unix:{socket}", options=options))
    clear, said = False, ""
    while (directory / "guard.lock").exists():
        until = _until(directory)
        if time.clock_gettime(time.CLOCK_BOOTTIME) < until:
            clear = False
        elif not clear:
            problem = ""
            try:
                clear = _end(daemon)
            except grpc.RpcError as error:
                problem = str(error.details())
            # Four times a second for as long as the runtime is away would fill the disk.
            if problem not in ("", said):
                LOG.warning("the Agent Runtime: %s", problem)
            said = problem
        time.sleep(LOOK_S)


def _until(directory: Path) -> float:
    try:
        told = (directory / "lease").read_bytes()
    except OSError:
        return 0.0
    return float(LEASE.unpack(told)[0]) if len(told) == LEASE.size else 0.0


def _end(daemon: runtime_pb2_grpc.RuntimeServiceStub) -> bool:
    """End all agents with ha; whether none runs. Raises `grpc.RpcError`."""
    agents = daemon.List(pb.ListRequest(labels={HA: "1"}), timeout=5.0).agents
    for agent in agents:
        if agent.state in LIVE:
            LOG.warning("the lease is over: %s is ended", agent.id)
            daemon.Kill(pb.KillRequest(id=agent.id), timeout=5.0)
    # Once more: one that was about to be started may have come meanwhile.
    return not any(agent.state in LIVE for agent in agents)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
