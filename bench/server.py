"""A control plane under load: simulated nodes over real gRPC streams, guests created through the HTTP API.

Prints one line of JSON: creates a second (closed loop), p50/p99 of calls and of create-to-running at a steady rate,
memory of the servers; and with --faults the same 10,000 guests while servers are killed with -9 and nodes cut off.
Load generator, nodes and servers share this machine. ``python bench/server.py --database mysql+pymysql://...``
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx

from gpve.client import ApiError, AsyncClient
from gpve.client.contexts import Context, Contexts, keep
from gpve.v1 import guest_pb2, guest_pb2_grpc

GPVE = [sys.executable, "-c", "from gpve.cli.main import main; main()"]


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(latencies: list[float], part: float) -> float:
    """A percentile, milliseconds."""
    ordered = sorted(latencies)
    return round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)


def free_ports() -> int:
    """The first of three ports, one after the other, that nobody listens on now."""
    while True:
        first = random.randrange(20_000, 30_000, 3)
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


class Cluster:
    """Servers and a swarm of nodes, as processes."""

    def __init__(self, directory: Path, nodes: int, servers: int, database: str) -> None:
        self.directory, self.database, self.count = directory, database, nodes
        self.servers: list[subprocess.Popen[bytes]] = []
        self.ports = [free_ports() for _ in range(servers)]
        for number in range(servers):
            self.servers.append(self.start_server(number))
            self.wait_ready(number)
        token = next(directory.glob("s*/token")).read_text().strip()
        ca = (directory / "s0/ca.pem").read_text()
        self.context = Context(tuple(f"https://127.0.0.1:{port}" for port in self.ports), token, ca)
        os.environ["GPVE_CONFIG"] = str(directory / "contexts.yaml")
        keep(Contexts("bench", {"bench": self.context}))
        self.swarm = self.start_swarm()

    def start_server(self, number: int) -> "subprocess.Popen[bytes]":
        """One server; a port is its own also after it was killed."""
        port, home = self.ports[number], self.directory / f"s{number}"
        home.mkdir(exist_ok=True)
        command = [*GPVE, "server", "--dir", str(home), "--api-port", str(port), "--rpc-port", str(port + 1)]
        command += ["--node-port", str(port + 2), "--log", "warning", "--lease", "5"]
        database = self.database or f"sqlite:///{self.directory}/gpve.db"
        with (home / "log").open("ab") as log:
            return subprocess.Popen([*command, "--database", database], stderr=log, stdout=log)

    def wait_ready(self, number: int) -> None:
        """Until a server says that it is ready."""
        deadline = time.monotonic() + 120.0
        while True:
            assert time.monotonic() < deadline, "not ready"
            assert self.servers[number].poll() is None, (self.directory / f"s{number}/log").read_text()[-2000:]
            with suppress(httpx.HTTPError):
                if httpx.get(f"https://127.0.0.1:{self.ports[number]}/readyz", verify=False).status_code == 200:
                    return
            time.sleep(0.2)

    def start_swarm(self) -> "subprocess.Popen[bytes]":
        """All nodes, connected."""
        command = [*GPVE, "swarm", str(self.count), "--dir", str(self.directory / "swarm")]
        with (self.directory / "swarm.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", (self.directory / "swarm.log").read_text()[-2000:]
        return process

    def kill_server(self, number: int) -> None:
        """kill -9, and start anew."""
        self.servers[number].kill()
        self.servers[number].wait()
        self.servers[number] = self.start_server(number)

    def cut(self, first: int, many: int, for_s: float) -> None:
        """Cut some nodes off."""
        assert self.swarm.stdin is not None
        self.swarm.stdin.write(f"cut {first} {many} {for_s}\n".encode())
        self.swarm.stdin.flush()

    def client(self) -> AsyncClient:
        return AsyncClient(self.context.servers, self.context.token, self.context.ca)

    def end(self) -> None:
        for process in [self.swarm, *self.servers]:
            process.send_signal(signal.SIGTERM)
        for process in [self.swarm, *self.servers]:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


class Load:
    """Creates guests, and sees them run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.made = 0
        self.asked: dict[str, float] = {}
        self.called: list[float] = []
        self.ran: list[float] = []
        self.refused: Counter[str] = Counter()
        self.rpc: Any = None

    async def watch(self, client: AsyncClient) -> None:
        """Note when guests run."""
        seen: int | None = None
        while True:
            try:
                async for change in client.watch(seen, tables=["guest"]):
                    row, seen = change.row, change.revision
                    if row is not None and row["phase"] == "running" and row["name"] in self.asked:
                        self.ran.append(time.perf_counter() - self.asked.pop(row["name"]))
            except ApiError as error:
                # Servers are killed at random: none may be up for as long as one takes to start.
                if error.status != 0:
                    raise
                await asyncio.sleep(1.0)

    async def one(self, client: AsyncClient) -> None:
        """Create one guest."""
        self.made += 1
        name, key = f"g{self.made}", f"k{self.made}"
        kind = ("vm", "agent", "vcluster")[self.made % 3]
        began = self.asked[name] = time.perf_counter()
        try:
            if self.rpc is None:
                await client.create(kind, {"name": name, "cpu_milli": 100, "memory_mib": 128}, key=key)
            else:
                await self._by_rpc(kind, name, key)
            self.called.append(time.perf_counter() - began)
        except ApiError as error:
            self.refused[error.kind] += 1
        except grpc.RpcError as error:
            self.refused[error.code().name] += 1

    async def _by_rpc(self, kind: str, name: str, key: str) -> None:
        spec = {"name": name, "cpu_milli": 100, "memory_mib": 128}
        metadata = (("authorization", f"Bearer {self.cluster.context.token}"), ("idempotency-key", key))
        await self.rpc.Create(guest_pb2.CreateGuestRequest(**{kind: spec}), metadata=metadata, timeout=30.0)

    def over_grpc(self) -> None:
        """Create by gRPC from now on."""
        port = self.cluster.ports[0] + 1
        credentials = grpc.ssl_channel_credentials((self.cluster.context.ca or "").encode())
        self.rpc = guest_pb2_grpc.GuestServiceStub(grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials))

    async def closed(self, at_once: int, seconds: float) -> float:
        """So many callers, each asking again when it was answered; creates a second."""
        until, first = time.perf_counter() + seconds, self.made

        async def caller() -> None:
            async with self.cluster.client() as client:
                while time.perf_counter() < until:
                    await self.one(client)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        return (self.made - first) / (time.perf_counter() - began)

    def latencies(self) -> dict[str, float]:
        """Of calls, and from the call until the guest runs."""
        return {
            f"{name}_p{percent}_ms": share(found, percent / 100)
            for name, found in (("call", self.called), ("running", self.ran))
            for percent in (50, 99)
        }

    async def steady(self, rate: float, count: int) -> None:
        """So many a second, whether or not those before are answered."""
        async with self.cluster.client() as client:
            began = time.perf_counter()
            tasks = []
            for number in range(count):
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
                tasks.append(asyncio.create_task(self.one(client)))
            await asyncio.gather(*tasks)


async def settled(client: AsyncClient, patience_s: float = 300.0) -> float:
    """Wait until no task is open; how long that took."""
    began = time.perf_counter()
    while True:
        with suppress(ApiError):
            tasks = (await client.status())["tasks"]
            if not tasks:
                return time.perf_counter() - began
        assert time.perf_counter() - began < patience_s, tasks
        await asyncio.sleep(0.25)


async def measure(cluster: Cluster, seconds: float, rate: float, api: str) -> dict[str, Any]:
    """Throughput and latencies without faults."""
    load = Load(cluster)
    if api == "grpc":
        load.over_grpc()
    told: dict[str, Any] = {"rss_idle_mib": [round(rss_mib(one.pid), 1) for one in cluster.servers]}
    async with cluster.client() as client:
        watching = asyncio.create_task(load.watch(client))
        await asyncio.sleep(0.5)
        await load.steady(20.0, 60)
        await settled(client)
        load.called.clear()
        load.ran.clear()
        before = [cpu_s(one.pid) for one in [*cluster.servers, cluster.swarm]], time.process_time()
        await load.steady(rate, int(rate * seconds))
        wait = await settled(client)
        after = [cpu_s(one.pid) for one in [*cluster.servers, cluster.swarm]], time.process_time()
        told["steady"] = {
            "rate": rate,
            **load.latencies(),
            "settled_after_s": round(wait, 2),
            "cpu_s": [round(b - a, 1) for a, b in zip(before[0], after[0], strict=True)]
            + [round(after[1] - before[1], 1)],
            "refused": dict(load.refused),
        }
        load.called.clear()
        load.ran.clear()
        began, first = time.perf_counter(), load.made
        creates = await load.closed(64, seconds)
        wait = await settled(client)
        told["closed"] = {
            "creates_per_s": round(creates, 1),
            "tasks_done_per_s": round((load.made - first) / (time.perf_counter() - began), 1),
            **load.latencies(),
            "refused": dict(load.refused),
        }
        told["rss_loaded_mib"] = [round(rss_mib(one.pid), 1) for one in cluster.servers]
        told["guests"] = (await client.status())["guests"]
        # Reads all that there is, so it has a figure of its own.
        told["findings"] = await client.audit()
        watching.cancel()
    told["rss_audited_mib"] = [round(rss_mib(one.pid), 1) for one in cluster.servers]
    return told


async def faults(cluster: Cluster, guests: int, chosen: random.Random) -> dict[str, Any]:
    """Guests created while servers die and nodes are cut off."""
    load = Load(cluster)
    over = asyncio.Event()
    kills = cuts = 0

    async def mishaps() -> None:
        nonlocal kills, cuts
        while not over.is_set():
            await asyncio.sleep(chosen.uniform(2.0, 6.0))
            # In turn: a short run sees both.
            if kills <= cuts:
                cluster.kill_server(chosen.randrange(len(cluster.servers)))
                kills += 1
            else:
                many = max(1, cluster.count // 50)
                cluster.cut(chosen.randrange(cluster.count), many, chosen.uniform(1.0, 10.0))
                cuts += 1

    began = time.perf_counter()
    trouble = asyncio.create_task(mishaps())
    gate = asyncio.Semaphore(64)
    async with cluster.client() as client:
        named = asyncio.create_task(load.watch(client))

        async def one() -> None:
            async with gate:
                await load.one(client)

        await asyncio.gather(*(one() for _ in range(guests)))
        asked_s = time.perf_counter() - began
        over.set()
        await trouble
        wait = await settled(client, 600.0)
        names = Counter([guest.name async for guest in client.list()])
        statuses = Counter(task.status for task in await client.tasks(most=guests * 2))
        findings = await client.audit()
        named.cancel()
    return {
        "guests_asked": guests,
        "guests_there": len(names),
        "twice": [name for name, count in names.items() if count > 1],
        "tasks": dict(statuses),
        "not_answered": dict(load.refused),
        "kills": kills,
        "cuts": cuts,
        "took_s": round(time.perf_counter() - began, 1),
        "settled_after_s": round(wait, 1),
        "creates_per_s": round(guests / asked_s, 1),
        **load.latencies(),
        "findings": findings,
        "rss_mib": [round(rss_mib(one.pid), 1) for one in cluster.servers],
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--database", default="")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--api", choices=("http", "grpc"), default="http")
    parser.add_argument("--faults", type=int, default=0, help="so many guests under faults")
    parser.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    given = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="gpve-bench-"))
    began = time.perf_counter()
    cluster = Cluster(directory, given.nodes, given.servers, given.database)
    told: dict[str, Any] = {"bench": "server", "nodes": given.nodes, "servers": given.servers}
    told["api"] = given.api
    told["database"] = given.database.split(":")[0] or "sqlite"
    told["connected_after_s"] = round(time.perf_counter() - began, 1)
    try:
        if given.faults:
            told["faults"] = asyncio.run(faults(cluster, given.faults, random.Random(given.faults)))
        else:
            told |= asyncio.run(measure(cluster, given.seconds, given.rate, given.api))
    finally:
        cluster.end()
        if given.keep:
            print(directory, file=sys.stderr)
        else:
            shutil.rmtree(directory)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
