"""A real cluster in a directory: a database, node stubs and engines as processes, and what they leave behind."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpve_sim.world.trial import node_row

from gpve.engine.inventory import inventory
from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.audit import audit
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Tx, Work
from gpve.tasks.state import CLOSED
from gpve.tasks.submit import request, submitting

HERE = Path(__file__).parent
NAMES = ("a", "b", "c")


class Cluster:
    """Three node stubs over one database; engines come and go."""

    def __init__(self, address: str, directory: Path, cores: int = 4000) -> None:
        self.address, self.directory = address, directory
        self.database = connect(address)
        migrate(self.database)
        self.store = SqlStore(self.database)
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.submitted = 0

        def write(tx: Tx) -> None:
            for name in NAMES:
                if tx.get("node", name) is None:
                    tx.put("node", node_row(name, cores=cores))
            tx.put("network", {"name": "lan", "kind": "bridge", "task": None})

        assert self.store.transact([Work(write)]) == [None]
        self.start("nodes", "stub_node.py", str(directory), *NAMES)

    def start(self, name: str, script: str, *arguments: str) -> None:
        """Start a process and wait until it says that it is ready."""
        process = subprocess.Popen(
            [sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.processes[name] = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def start_engine(self, name: str) -> None:
        self.start(name, "engine_process.py", self.address, str(self.directory), name, *NAMES)

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        self.database.dispose()

    def submit(self, count: int, random_: random.Random) -> None:
        """A mix of tasks, straight to the store: creates, and migrations of VMs that are there."""
        guests = self.store.rows("guest")
        ready = [g for g in guests if g["task"] is None and (g["kind"], g["phase"]) == ("vm", "running")]
        random_.shuffle(ready)
        works = []
        for _ in range(count):
            self.submitted += 1
            if ready and random_.random() < 0.4:
                wish = request(FLOWS, "vm_migrate", {"guest": ready.pop()["id"]}, key=f"k{self.submitted}")
            else:
                body: dict[str, Any] = {"name": f"vm-{self.submitted}", "cpu_milli": 100, "memory_mib": 64}
                wish = request(FLOWS, "vm_create", {**body, "networks": ["lan"]}, key=f"k{self.submitted}")
            works.append(submitting(wish))
        for result in self.store.transact(works):
            if isinstance(result, Exception):
                raise result

    def open_tasks(self) -> list[int]:
        return [row["id"] for row in self.store.rows("task") if row["status"] not in CLOSED]

    def wait(self, patience_s: float = 120.0) -> None:
        """Until every task is over. Fails when nothing at all was written to a log for so long."""
        revision, until = 0, time.monotonic() + patience_s
        while left := self.open_tasks():
            news = self.store.events_since(revision, 1000)
            if news:
                revision, until = news[-1]["revision"], time.monotonic() + patience_s
            if time.monotonic() > until:
                rows = [row for row in self.store.rows("task") if row["id"] in left[:3]]
                told = f"engines: {self.store.rows('engine')}, clock: {self.store.now()}, revision {revision}"
                raise AssertionError(f"{len(left)} tasks rest: {rows}; {told}; {self._database_says()}")
            time.sleep(0.1)

    def _database_says(self) -> str:
        if self.database.dialect.name == "sqlite":
            return ""
        with self.database.connect() as connection:
            return str(connection.exec_driver_sql("SHOW ENGINE INNODB STATUS").fetchall())[-6000:]

    def findings(self) -> list[str]:
        """What the audit finds, and effects that were made twice."""
        found = audit(self.store.rows, FLOWS, inventory({name: self.directory / f"{name}.sock" for name in NAMES}))
        for name in NAMES:
            seen: set[tuple[Any, ...]] = set()
            for line in (self.directory / f"{name}.effects").read_text().splitlines():
                key = tuple(json.loads(line)["key"])
                if key in seen:
                    found.append(f"node {name}: {key} had a second effect")
                seen.add(key)
        return found
