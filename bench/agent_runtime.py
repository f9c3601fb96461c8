"""The Agent Runtime measured: from a crash to running again, a thousand agents at once, starts a second.

Beside bubblewrap, crun and runc in the same run.

    python bench/agent_runtime.py

Prints one line of JSON. Wants root and a release build of gpve-agentrt (cargo build --release -p gpve-agentrt in
agentrt/, or GPVE_AGENTRT_BIN); programs that are not installed are left out by name.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.agentrt.runtime.daemon import Daemon, pb, programs

CRASHES = 300
AGENTS = 1000
SLEEP = ["/bin/sleep", "100000"]


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 3),
        "p99": round(ordered[int(len(ordered) * 0.99) - 1], 3),
        "max": round(ordered[-1], 3),
    }


def crash_to_running(daemon: Daemon) -> dict[str, float]:
    """Milliseconds from the death of the program to the event that its next run runs, as a client sees it."""
    restart = pb.RestartPolicy(when=pb.RestartPolicy.WHEN_ALWAYS, reset_after_ms=1)
    id = daemon.run(*SLEEP, restart=restart)
    events = daemon.call.Events(pb.EventsRequest(follow=True, from_now=True, id=id))
    taken = []
    for _ in range(CRASHES):
        time.sleep(0.01)
        init = daemon.agent(id).pid
        program = int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])
        began = time.perf_counter()
        os.kill(program, signal.SIGKILL)
        for event in events:
            if event.kind == "running":
                break
        taken.append((time.perf_counter() - began) * 1e3)
    events.cancel()
    daemon.delete(id)
    return quantiles(taken)


def memory(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "resident_mib": round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1),
        "of_its_own_mib": round(int(status.split("RssAnon:")[1].split()[0]) / 1024, 1),
    }


def start_all(daemon: Daemon, ids: list[str], at_once: int = 16) -> float:
    """Starts a second through the daemon: every call answered when its program runs."""
    began = time.perf_counter()
    window = threading.Semaphore(at_once)
    calls = []
    for id in ids:
        window.acquire()
        call = daemon.call.Start.future(pb.StartRequest(id=id))
        call.add_done_callback(lambda _: window.release())
        calls.append(call)
    for call in calls:
        call.result()
    return len(ids) / (time.perf_counter() - began)


def thousand(daemon: Daemon) -> dict[str, object]:
    alone = memory(daemon.pid)
    ids = [daemon.create(*SLEEP) for _ in range(AGENTS)]
    rate = start_all(daemon, ids)
    running = sum(a.state == pb.STATE_RUNNING for a in daemon.call.List(pb.ListRequest()).agents)
    full = memory(daemon.pid)
    spawners = [memory(pid) for pid in daemon.spawner_pids()]
    began = time.perf_counter()
    daemon.kill()
    daemon.start()
    adopted = time.perf_counter() - began
    again = memory(daemon.pid)
    still = sum(a.state == pb.STATE_RUNNING for a in daemon.call.List(pb.ListRequest()).agents)
    began = time.perf_counter()
    for call in [daemon.call.Delete.future(pb.DeleteRequest(id=id, force=True)) for id in ids]:
        call.result()
    return {
        "agents": AGENTS,
        "running": running,
        "starts_per_s": round(rate),
        "daemon_without_agents": alone,
        "daemon": full,
        "spawners": spawners,
        "kill_9_to_serving_s": round(adopted, 2),
        "still_running_after_kill_9": still,
        "daemon_after_kill_9": again,
        "deleted_in_s": round(time.perf_counter() - began, 2),
    }


def starts_of_true(daemon: Daemon, count: int = 600) -> dict[str, float]:
    ids = [daemon.create("/bin/true") for _ in range(count)]
    rate = start_all(daemon, ids)
    taken = []
    for _ in range(200):
        id = daemon.create("/bin/true")
        began = time.perf_counter()
        daemon.start_agent(id)
        taken.append((time.perf_counter() - began) * 1e3)
    daemon.clear()
    return {"starts_per_s_both_cores": round(rate), **{f"start_call_ms_{k}": v for k, v in quantiles(taken).items()}}


def peers(bundle: Path) -> dict[str, list[str]]:
    root = bundle / "rootfs"
    for folder in ["usr", "proc", "dev", "sys"]:
        (root / folder).mkdir(parents=True)
    for link in ["bin", "lib", "lib64", "sbin"]:
        (root / link).symlink_to(f"usr/{link}")
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/true"], "cwd": "/", "env": ["PATH=/usr/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/usr", "source": "/usr", "type": "bind", "options": ["rbind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": [{"type": t} for t in ["pid", "network", "ipc", "uts", "mount"]]},
    }
    (bundle / "config.json").write_text(json.dumps(spec))
    bwrap = ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
    for link in ["bin", "lib", "lib64"]:
        bwrap += ["--symlink", f"usr/{link}", f"/{link}"]
    return {
        "bwrap --unshare-all": [*bwrap, "/bin/true"],
        "crun run": ["crun", "--cgroup-manager=disabled", "run", "--bundle", str(bundle)],
        "runc run": ["runc", "run", "--bundle", str(bundle)],
    }


def starts_of_peer(argv: list[str], seconds: float = 3.0) -> dict[str, object]:
    """Starts to the exit of `true`, two at a time, and how long one takes alone."""

    def once(name: str) -> None:
        last = [name] if argv[0] in ("crun", "runc") else []
        subprocess.run([*argv, *last], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    try:
        once("warm")
    except subprocess.CalledProcessError as error:
        return {"refused": error.stderr.decode(errors="replace").strip().splitlines()[-1][:200]}
    alone = []
    for i in range(40):
        began = time.perf_counter()
        once(f"alone{i}")
        alone.append((time.perf_counter() - began) * 1e3)
    counts = [0, 0]
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < until:
            once(f"b{number}-{counts[number]}")
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"starts_per_s_both_cores": round(sum(counts) / seconds), "ms": quantiles(alone)}


def starts_apart(argv: list[str]) -> object:
    """The same in a mount namespace of its own. crun refuses a hybrid cgroup layout: it sees one half of it."""
    hide = "umount /sys/fs/cgroup/unified 2>/dev/null;" if argv[0] == "crun" else ""
    shell = [
        "unshare",
        "-m",
        "sh",
        "-c",
        f'{hide} exec "$@"',
        "sh",
        sys.executable,
        __file__,
        "--peer",
        json.dumps(argv),
    ]
    return json.loads(subprocess.run(shell, check=True, stdout=subprocess.PIPE).stdout)


def with_daemon(work: Callable[[Daemon], dict[str, object]]) -> dict[str, object]:
    folder = Path(tempfile.mkdtemp(prefix="gpve-"))
    daemon = Daemon(folder / "r").start()
    try:
        return work(daemon)
    finally:
        daemon.clear()
        daemon.stop()
        shutil.rmtree(folder)


def main() -> None:
    result: dict[str, object] = {"benchmark": "agent_runtime", "load_before": os.getloadavg()[0]}
    build = programs()
    result["build"] = build.parts[-2] if build.parts[-1] == "release" else build.parts[-1]
    result["bytes"] = {name: (build / name).stat().st_size for name in ("gpve-agentrt", "gpve-spawner")}
    result["crash_to_running_ms"] = with_daemon(lambda d: dict(crash_to_running(d)))
    result["true"] = with_daemon(lambda d: dict(starts_of_true(d)))
    result["thousand"] = with_daemon(thousand)
    bundle = Path(tempfile.mkdtemp(prefix="gpve-bundle-"))
    for name, argv in peers(bundle).items():
        result[name] = starts_apart(argv) if shutil.which(argv[0]) else "not installed"
    shutil.rmtree(bundle)
    result["load_after"] = os.getloadavg()[0]
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        print(json.dumps(starts_of_peer(json.loads(sys.argv[2]))))
    else:
        main()
