"""What a node has, and what works on it: inventory, and a preflight that says what is missing."""

import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gpve.model.kinds import KINDS
from gpve.node.executor import Spent

SYS = Path("/sys")
GPU_CLASSES = ("0x0300", "0x0302", "0x1200")


@dataclass(frozen=True)
class Facts:
    """Amounts that guests may claim, and everything else for people (JSON)."""

    cpu_milli: int
    memory_mib: int
    gpus: tuple[int, ...] = ()
    gpu_model: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    kinds: tuple[str, ...] = KINDS
    """Of guests that it runs."""
    simulated: tuple[str, ...] = ()
    """Those of them that it only simulates."""
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """Whether something works here; if not, what is missing and what would help."""

    name: str
    works: bool
    why: str


def boot_id() -> str:
    """Which start of this machine it is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def look(directory: Path, reserved_mib: int, checks: Sequence[Check]) -> Facts:
    """Look at this machine; ``reserved_mib`` is kept from guests, for the machine itself."""
    memory = psutil.virtual_memory().total >> 20
    disk = shutil.disk_usage(directory)
    return Facts(
        cpu_milli=1000 * len(os.sched_getaffinity(0)),
        memory_mib=max(1, memory - reserved_mib),
        labels={"gpve.arch": os.uname().machine},
        told={
            "host": socket.gethostname(),
            "kernel": os.uname().release,
            "numa": numa(),
            "gpus": gpus(),
            "storage": [
                {"pool": "local", "path": str(directory), "total_mib": disk.total >> 20, "free_mib": disk.free >> 20}
            ],
            "networks": networks(),
            "executors": {check.name: {"works": check.works, "why": check.why} for check in checks},
        },
    )


def spent() -> Spent:
    """What this whole machine has used of CPU, and uses of memory."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    memory = psutil.virtual_memory()
    return Spent(int(busy * 1e9), memory.total - memory.available)


def numa() -> list[dict[str, Any]]:
    """NUMA nodes: their CPUs, and their memory in MiB."""
    found = []
    for node in sorted((SYS / "devices/system/node").glob("node[0-9]*")):
        total = next(
            (line.split()[3] for line in (node / "meminfo").read_text().splitlines() if "MemTotal" in line), "0"
        )
        cpus = (node / "cpulist").read_text().strip()
        found.append({"node": node.name, "cpus": cpus, "memory_mib": int(total) >> 10})
    return found


def networks() -> list[dict[str, Any]]:
    """Network interfaces but the loopback, with their addresses."""
    families = (socket.AF_INET, socket.AF_INET6)
    return [
        {"name": name, "addresses": [one.address for one in found if one.family in families]}
        for name, found in sorted(psutil.net_if_addrs().items())
        if name != "lo"
    ]


def gpus() -> list[dict[str, str]]:
    """Graphics processors on the PCI bus, whether or not anything could use them yet."""
    found = []
    for device in sorted((SYS / "bus/pci/devices").glob("*")):
        try:
            kind = (device / "class").read_text().strip()
            if kind[:6] in GPU_CLASSES:
                vendor, model = ((device / name).read_text().strip() for name in ("vendor", "device"))
                found.append({"address": device.name, "vendor": vendor, "device": model})
        except OSError:
            continue
    return found


def check_vms() -> Check:
    """Whether VMs could be run for real here."""
    lacks = []
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        lacks.append("/dev/kvm cannot be opened (virtualization switched off in the firmware, or no permission)")
    if shutil.which("qemu-system-x86_64") is None:
        lacks.append("qemu-system-x86_64 is not installed")
    why = "; ".join(lacks) or "KVM and QEMU are there; the executor of VMs is not part of this version"
    return Check("vm", False, f"simulated: {why}")


def check_vclusters() -> Check:
    """Whether vClusters could be run for real here."""
    return Check("vcluster", False, "simulated: the executor of vClusters is not part of this version")


def check_agents(version: str | None, enforceable: Sequence[str], problem: str) -> Check:
    """Whether agents run for real here."""
    if version is None:
        return Check("agent", False, f"{problem}; gpve-agentrt daemon runs agents for real")
    return Check("agent", True, f"Agent Runtime {version}: {', '.join(enforceable)}")
