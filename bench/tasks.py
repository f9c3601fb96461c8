"""Tasks of five recorded steps: how many a second, and p99 latency, beside DBOS Transact.

1 and 50 at once, on SQLite and MariaDB. Each step of ours is an operation on a node: its intent is committed before it
is sent, its outcome after it has come back (the outcome of one and the intent of the next share a commit). The node
answers at once, in memory, as DBOS's steps return at once. Both write to SQLite in WAL mode with synchronous=FULL, in
the same directory, in turn; MariaDB flushes its log at every commit. Needs ``pip install 'gpve[bench]'`` for DBOS, and
Debian's mariadb-server for MariaDB.
"""

import asyncio
import importlib.util
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpve_sim.world.nodes import MemoryJournal

from gpve.engine.engine import Engine
from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore
from gpve.tasks.advance import Operation
from gpve.tasks.flow import Body, Context, Flow, Flows, Lock, OnNode, Opened, Step
from gpve.tasks.operations import Make, admit
from gpve.tasks.outcome import Done
from gpve.tasks.submit import request
from gpve.tasks.worker import Rules

SECONDS = 2.0
ROUNDS = 3


class Nothing(Body):
    """An empty body."""


class InstantNodes:
    """A node in this process that keeps the rules of operations and answers at once."""

    def __init__(self) -> None:
        self._journal = MemoryJournal()

    def holds(self, node: str) -> bool:
        return True

    def names(self) -> list[str]:
        return ["here"]

    def send(self, operation: Operation, answer: Any) -> None:
        verdict = admit(self._journal, operation)
        if isinstance(verdict, Make):
            self._journal.record(operation, {})
            verdict = Done()
        asyncio.get_running_loop().call_soon(answer, operation, verdict)

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def tell(self) -> None:
        return None


def _operate(seen: Context) -> OnNode:
    return OnNode("here", "nothing", {}, f"task/{seen.task}")


def _locks(target: Any, body: Any) -> list[Lock]:
    return []


FIVE = Flow(
    "five",
    version=1,
    body=Nothing,
    open=lambda tx, wish, task: Opened(None),
    locks=_locks,
    close=lambda tx, seen, done: None,
    steps=[Step(f"step{number}", _operate, undo=_operate) for number in range(5)],
)


def measure(run: Callable[[], Any], at_once: int, seconds: float = SECONDS) -> dict[str, float]:
    """Closed loop: ``at_once`` threads, each starting a task when its last one has ended."""
    latencies: list[float] = []
    until = time.perf_counter() + seconds

    def loop() -> None:
        while (started := time.perf_counter()) < until:
            run()
            latencies.append(time.perf_counter() - started)

    run()
    threads = [threading.Thread(target=loop) for _ in range(at_once)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    latencies.sort()
    return {
        "tasks_per_s": round(len(latencies) / took, 1),
        "p50_ms": round(1000 * statistics.median(latencies), 2),
        "p99_ms": round(1000 * latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))], 2),
    }


class Gpve:
    """Ours, over a database."""

    def __init__(self, address: str) -> None:
        self._database = connect(address)
        migrate(self._database)
        store, flows = SqlStore(self._database), Flows([FIVE])
        self._engine = Engine("bench", store, InstantNodes(), None, flows, Rules())  # type: ignore[arg-type]
        self._wish = request(flows, "five", {})
        self._engine.start()

    def run(self) -> None:
        """One task, to its end."""
        self._engine.run(self._wish).result()

    def stop(self) -> None:
        """End."""
        self._engine.stop()
        self._database.dispose()


class Dbos:
    """DBOS Transact on its SQLite, which it opens with synchronous=FULL."""

    def __init__(self, directory: Path) -> None:
        from dbos import DBOS, DBOSConfig

        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": f"sqlite:///{directory}/dbos.sqlite",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
        DBOS(config=config)

        @DBOS.step()
        def one() -> int:
            return 1

        @DBOS.workflow()
        def five() -> int:
            return sum(one() for _ in range(5))

        DBOS.launch()
        self.run, self.stop = five, DBOS.destroy


def commits_per_s(directory: Path, seconds: float = 1.0) -> float:
    """How many transactions of one row SQLite makes alone, one after another, at synchronous=FULL."""
    connection = sqlite3.connect(directory / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (a, b)")
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?, ?)", (count, "x" * 100))
        connection.execute("COMMIT")
        count += 1
    connection.close()
    return count / seconds


def main() -> None:
    """Print one line of JSON: the medians of rounds in which all take their turns."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.tasks.mariadb import MariaDb

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        server = None
        runners: dict[str, Gpve | Dbos] = {"gpve_sqlite": Gpve(f"sqlite:///{folder}/gpve.db")}
        if importlib.util.find_spec("dbos"):
            runners["dbos_sqlite"] = Dbos(directory)
        if shutil.which("mariadbd") or Path("/usr/sbin/mariadbd").exists():
            server = MariaDb(directory / "mariadb")
            server.start()
            runners["gpve_mariadb"] = Gpve(server.database("bench"))
        rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
        raw = []
        for _ in range(ROUNDS):
            raw.append(commits_per_s(directory))
            for name, runner in runners.items():
                for at_once in (1, 50):
                    rounds[f"{name} {at_once}"].append(measure(runner.run, at_once))
        for runner in runners.values():
            runner.stop()
        if server is not None:
            server.stop()
    told: dict[str, Any] = {"bench": "tasks", "sqlite_commits_per_s": round(statistics.median(raw))}
    for name, measured in rounds.items():
        told[name] = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
    for at_once in (1, 50):
        if f"dbos_sqlite {at_once}" in rounds:
            ours, theirs = (
                [one["tasks_per_s"] for one in rounds[f"{name} {at_once}"]] for name in ("gpve_sqlite", "dbos_sqlite")
            )
            ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
            told[f"times_dbos {at_once}"] = round(statistics.median(ratios), 1)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
