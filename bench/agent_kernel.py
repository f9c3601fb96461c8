"""Cold starts of the Agent Kernel at L3 with cgroups and limits, beside bubblewrap, crun and runc in the same run.

Paired: each round starts each once, from one small process. From start to exit of `true`: p50, p99, and the ratio of
the quantiles with a 95 % interval (bootstrap over rounds). Then starts a second on both cores, and a policy check from
Python. Needs root, cargo, and the Debian packages bubblewrap, crun, runc; what is missing is left out.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import timeit
from pathlib import Path

RUST = Path(__file__).parents[1] / "agentrt"
#: Everything unshared that can be; the same root as ours.
BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"]
BWRAP += ["--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64", "true"]


def build() -> Path:
    """The launcher that is measured: static, optimised."""
    installed = subprocess.run(
        ["rustup", "target", "list", "--installed"], capture_output=True, text=True, check=False
    ).stdout
    env, target = dict(os.environ), "x86_64-unknown-linux-musl"
    if target not in installed:
        # Named all the same: else what is built for the compiler itself would be static too, and cannot be.
        env["RUSTFLAGS"], target = "-C target-feature=+crt-static", "x86_64-unknown-linux-gnu"
    command = ["cargo", "build", "--quiet", "--release", "-p", "gpve-agent-kernel", "--example", "starts"]
    command += ["--target", target]
    subprocess.run(command, cwd=RUST, check=True, env=env)
    return RUST / "target" / target / "release/examples/starts"


def bundle(place: Path) -> Path:
    """An OCI bundle whose root has the host's /usr, and runs `true`."""
    root = place / "rootfs"
    for name in ("usr", "proc", "dev", "sys", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    subprocess.run(["runc", "spec", "--bundle", str(place)], check=True)
    config = json.loads((place / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": ["true"]}
    config["mounts"].append({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]})
    config["linux"]["resources"] |= {
        "memory": {"limit": 512 << 20},
        "pids": {"limit": 256},
        "cpu": {"quota": 100_000, "period": 100_000},
    }
    (place / "config.json").write_text(json.dumps(config))
    return place


def quantile(values: list[float], share: float) -> float:
    """A quantile of a sample."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ratio(ours: list[float], theirs: list[float], share: float = 0.5) -> dict[str, object]:
    """Ratio of quantiles, with its 95 % interval over resampled rounds."""
    draw = random.Random(1)
    rounds = range(len(ours))
    resampled = []
    for _ in range(1000):
        chosen = draw.choices(rounds, k=len(ours))
        resampled.append(quantile([ours[i] for i in chosen], share) / quantile([theirs[i] for i in chosen], share))
    low, high = quantile(resampled, 0.025), quantile(resampled, 0.975)
    return {
        "ratio": round(quantile(ours, share) / quantile(theirs, share), 3),
        "interval": [round(low, 3), round(high, 3)],
    }


def paired(starts: Path, rounds: int, others: dict[str, list[str]], without_unified: bool) -> dict[str, object]:
    """One run: milliseconds and ratios."""
    command = [str(starts), str(rounds), "true"]
    for name, argv in others.items():
        command += ["--vs", name, *argv]
    if without_unified:
        # crun refuses a hybrid layout; in a mount namespace of its own, without cgroup v2, it runs.
        command = ["unshare", "-m", "sh", "-c", 'umount -l /sys/fs/cgroup/unified; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    times: dict[str, list[float]] = json.loads(done.stdout)
    # The first rounds fill caches.
    times = {name: values[max(2, rounds // 50) :] for name, values in times.items()}
    out: dict[str, object] = {}
    for name, values in times.items():
        out[name] = {"p50_ms": round(quantile(values, 0.5) / 1e3, 3), "p99_ms": round(quantile(values, 0.99) / 1e3, 3)}
    for name in others:
        out[f"p50_against_{name}"] = ratio(times["agent_kernel"], times[name])
        out[f"p99_against_{name}"] = ratio(times["agent_kernel"], times[name], 0.99)
    return out


def per_second(command: list[str], processes: int) -> float:
    """Starts a second of so many processes at once."""
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    told = [json.loads(process.communicate()[0]) for process in running]
    return sum(one["starts"] / one["seconds"] for one in told)


def rates(starts: Path, seconds: float, others: dict[str, list[str]]) -> dict[str, object]:
    """Starts a second on all cores, alternating between ours and theirs."""
    cores = os.cpu_count() or 1
    commands = {"agent_kernel": [str(starts), "--rate", str(seconds), "true"]}
    for name, argv in others.items():
        commands[name] = [str(starts), "--rate-of", str(seconds), *argv]
    seen: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(3):
        for name, command in commands.items():
            seen[name].append(per_second(command, cores if name in ("agent_kernel", "bwrap") else 1))
    medians = {name: statistics.median(values) for name, values in seen.items()}
    out: dict[str, object] = {name: round(value, 1) for name, value in medians.items()}
    for name in others:
        out[f"times_{name}"] = round(medians["agent_kernel"] / medians[name], 2)
    return out


def check_us() -> float | None:
    """Microseconds for a policy check from Python; None where the package is not built."""
    try:
        from gpve_agent_kernel import Policy
    except ImportError:
        return None
    allows = Policy("version = 1").allows
    return round(min(timeit.repeat(lambda: allows("read", "/usr/bin/env"), number=100_000, repeat=5)) * 10, 3)


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("cargo") is None:
        print(json.dumps({"bench": "agent_kernel", "skipped": "needs root and cargo"}))
        sys.exit(0)
    starts = build()
    out: dict[str, object] = {"bench": "agent_kernel", "load_before": os.getloadavg()[0], "check_us": check_us()}
    with tempfile.TemporaryDirectory() as place:
        others: dict[str, list[str]] = {"plain": ["true"]}
        if shutil.which("bwrap"):
            others["bwrap"] = BWRAP
        if shutil.which("runc"):
            own = str(bundle(Path(place) / "runc"))
            others["runc"] = ["runc", "run", "--bundle", own, "gpve-bench-runc"]
        out["paired"] = paired(starts, arguments.rounds, others, without_unified=False)
        if shutil.which("crun") and shutil.which("runc"):
            own = str(bundle(Path(place) / "crun"))
            crun = {"crun": ["crun", "run", "--bundle", own, "gpve-bench-crun"]}
            try:
                out["paired_with_crun"] = paired(starts, max(20, arguments.rounds // 4), crun, without_unified=True)
            except subprocess.CalledProcessError as error:
                out["paired_with_crun"] = {"skipped": error.stderr.strip().split("\n")[0][:200]}
        out["starts_a_second_on_all_cores"] = rates(
            starts, arguments.seconds, {k: v for k, v in others.items() if k != "plain"}
        )
    out["load_after"] = os.getloadavg()[0]
    print(json.dumps(out))


if __name__ == "__main__":
    main()
