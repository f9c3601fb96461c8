"""An engine as a process of its own, to be killed: ``python engine_process.py ADDRESS DIR NAME NODE...``."""

import signal
import sys
import threading
from pathlib import Path

from gpve_sim.policies import load

from gpve.engine.engine import Engine
from gpve.engine.sockets import SocketNodes
from gpve.store.database import connect
from gpve.store.sql import SqlStore
from gpve.tasks.flows import FLOWS
from gpve.tasks.worker import Rules
from gpve.world.placement import SchedulerPlacer


def main(address: str, directory: Path, name: str, nodes: list[str]) -> None:
    store = SqlStore(connect(address))
    sockets = SocketNodes({node: directory / f"{node}.sock" for node in nodes})
    rules = Rules(lease_s=2.0, sweep_s=0.2, most=100)
    engine = Engine(name, store, sockets, SchedulerPlacer(load("worst-fit")), FLOWS, rules)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    engine.start()
    print("ready", flush=True)
    over.wait()
    engine.stop()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
