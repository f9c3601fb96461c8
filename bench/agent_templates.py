"""Templates and pools: how fast an agent is ready, what a claim costs, what an idle agent weighs.

Beside runc, which starts the same interpreter with the same imports, in the same run.

    python bench/agent_templates.py [--agents 1000,5000]

Prints one line of JSON. Wants root and release builds of gpve-agentrt, gpve-spawner and libgpve_agent_seed.so in one
directory (GPVE_AGENTRT_BIN). Memory is the host's: MemAvailable before and after, by the number of agents, so that it
has user and kernel memory alike; other programs on the host blur it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.agentrt.runtime.daemon import Daemon, pb

IMPORTS = [
    *("asyncio", "ssl", "http.client", "sqlite3", "json", "logging", "email", "urllib.request"),
    *("subprocess", "tempfile", "threading", "hashlib", "csv", "decimal", "xml.etree.ElementTree"),
]
SLEEP = "import time; time.sleep(100000)"
#: One second of real work: parse, allocate, sort, hash, then idle.
WORK = """
import time, json, hashlib
until = time.monotonic() + 1
rows = [{"id": i, "text": "word " * 20} for i in range(2000)]
while time.monotonic() < until:
    text = json.dumps(sorted(rows, key=lambda row: hashlib.sha256(row["text"].encode()).hexdigest()))
    rows = json.loads(text)
del rows, text
print("worked", flush=True)
time.sleep(100000)
"""


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p99": round(ordered[int(len(ordered) * 0.99) - 1], 3),
        "n": len(ordered),
    }


def available_kib() -> int:
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])


def pooled(daemon: Daemon, count: int) -> float:
    """Seconds until so many instances wait."""
    daemon.call.SetPool(pb.SetPoolRequest(name="t", size=count))
    began = time.perf_counter()
    while daemon.call.ListTemplates(pb.ListTemplatesRequest()).templates[0].pooled < count:
        time.sleep(0.02)
    return time.perf_counter() - began


def claims(daemon: Daemon, rounds: int) -> list[float]:
    """Milliseconds of a claim from a pool that is full, as a client in Python sees it."""
    taken = []
    for _ in range(rounds):
        pooled(daemon, 32)
        time.sleep(0.05)
        ids = []
        for _ in range(20):
            began = time.perf_counter()
            ids.append(daemon.claim("t", "-c", SLEEP).id)
            taken.append((time.perf_counter() - began) * 1e3)
        for id in ids:
            daemon.delete(id)
    return taken


def ready(daemon: Daemon, rounds: int, pool: int) -> list[float]:
    """Milliseconds from the call to the first word of the agent's own code."""
    taken = []
    for _ in range(rounds):
        pooled(daemon, pool)
        time.sleep(0.05)
        began = time.perf_counter()
        id = daemon.claim("t", "-c", "print('here', flush=True)\n" + SLEEP).id
        for chunk in daemon.call.Logs(pb.LogsRequest(id=id, follow=True)):
            if b"here" in chunk.data:
                break
        taken.append((time.perf_counter() - began) * 1e3)
        daemon.delete(id)
    return taken


def runc_ready(rounds: int) -> list[float]:
    """The same by `runc run` of an interpreter that imports the same."""
    place = Path(tempfile.mkdtemp(prefix="gpve-bundle-"))
    for name in ("usr", "proc", "dev", "sys", "tmp"):
        (place / "rootfs" / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (place / "rootfs" / name).symlink_to(f"usr/{name}")
    subprocess.run(["runc", "spec", "--bundle", str(place)], check=True)
    config = json.loads((place / "config.json").read_text())
    code = "import " + ", ".join(IMPORTS) + "; print('here', flush=True)"
    config["process"] |= {"terminal": False, "args": ["/usr/bin/python3", "-c", code]}
    config["mounts"].append({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]})
    (place / "config.json").write_text(json.dumps(config))
    taken = []
    for i in range(rounds):
        began = time.perf_counter()
        with subprocess.Popen(
            ["runc", "run", "--bundle", str(place), f"gpve-bench-{os.getpid()}-{i}"], stdout=subprocess.PIPE
        ) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"here\n"
            taken.append((time.perf_counter() - began) * 1e3)
            run.communicate()
    shutil.rmtree(place)
    return taken[1:]


def weight(daemon: Daemon, count: int) -> dict[str, float]:
    """KiB an agent: waiting; then claimed and idle; then after a second of work."""
    pooled(daemon, 0)
    time.sleep(1)
    before = available_kib()
    pooled(daemon, count)
    time.sleep(1)
    waiting = (before - available_kib()) / count
    pooled(daemon, 0)
    ids = [daemon.claim("t", "-c", SLEEP).id for _ in range(count)]
    time.sleep(1)
    idle = (before - available_kib()) / count
    for id in ids:
        daemon.delete(id)
    time.sleep(1)
    before = available_kib()
    ids = [daemon.claim("t", "-c", WORK).id for _ in range(count // 4)]
    for id in ids:
        while b"worked" not in daemon.logs(id):
            time.sleep(0.05)
    worked = (before - available_kib()) / len(ids)
    for id in ids:
        daemon.delete(id)
    return {"waiting": round(waiting), "claimed_and_idle": round(idle), "after_a_second_of_work": round(worked)}


def many(daemon: Daemon, count: int) -> dict[str, float]:
    before = available_kib()
    seconds = pooled(daemon, count)
    time.sleep(1)
    used = before - available_kib()
    began = time.perf_counter()
    ids = [daemon.claim("t", "-c", SLEEP).id for _ in range(min(count, 200))]
    claiming = (time.perf_counter() - began) / len(ids)
    for id in ids:
        daemon.delete(id)
    began = time.perf_counter()
    daemon.call.SetPool(pb.SetPoolRequest(name="t", size=0))
    while daemon.call.ListTemplates(pb.ListTemplatesRequest()).templates[0].pooled:
        time.sleep(0.02)
    return {
        "starts_per_s": round(count / seconds),
        "kib_each": round(used / count),
        "claim_ms_then": round(claiming * 1e3, 2),
        "daemon_mib": round(daemon.call.Stats(pb.StatsRequest(ids=[])).daemon.resident_bytes / 2**20),
        "gone_in_s": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", default="1000,5000")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    result: dict[str, object] = {"bench": "agent_templates", "load_before": os.getloadavg()[0]}
    folder = Path(tempfile.mkdtemp(prefix="gpve-"))
    daemon = Daemon(folder / "r").start()
    try:
        daemon.template("t", policy="version = 1", imports=IMPORTS, max_agents=6000)
        result["claim_ms"] = quantiles(claims(daemon, arguments.rounds))
        result["ready_from_pool_ms"] = quantiles(ready(daemon, arguments.rounds * 4, 8))
        result["ready_on_demand_ms"] = quantiles(ready(daemon, arguments.rounds * 4, 0))
        if shutil.which("runc"):
            result["runc_ready_ms"] = quantiles(runc_ready(arguments.rounds * 2))
        # Others on the host come and go: the middle of five.
        weighed = [weight(daemon, 200) for _ in range(5)]
        result["kib_each"] = {name: statistics.median(one[name] for one in weighed) for name in weighed[0]}
        for count in arguments.agents.split(","):
            result[f"{count}_at_once"] = many(daemon, int(count))
    finally:
        daemon.clear()
        daemon.stop()
        shutil.rmtree(folder)
    result["load_after"] = os.getloadavg()[0]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
