"""A complete look at what a daemon's directory has on the host: the oracle of every test that kills something."""

import os
from dataclasses import dataclass, field
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def fingerprint(text: str) -> int:
    """FNV-1a, as the daemon names the cgroup of its directory."""
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def cgroup_name(root: Path) -> str:
    return f"gpve-agents-{fingerprint(str(root)) & 0xFFFFFFFF:08x}"


@dataclass
class Host:
    """Everything on the host that belongs to one daemon's directory."""

    processes: dict[int, str] = field(default_factory=dict)
    cgroups: set[str] = field(default_factory=set)
    mounts: set[str] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def empty(self) -> bool:
        return not (self.processes or self.cgroups or self.mounts or self.namespaces or self.held)


def text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def links(folder: Path) -> list[str]:
    found = []
    try:
        entries = list(folder.iterdir())
    except OSError:
        return []
    for entry in entries:
        try:
            found.append(str(entry.readlink()))
        except OSError:
            continue
    return found


def look(root: Path) -> Host:
    """Processes (zombies too), cgroups in every hierarchy, mounts of this namespace, namespaces that are not ours,
    descriptors that hold namespaces, and files."""
    host = Host()
    name = cgroup_name(root)
    own = set(links(Path("/proc/self/ns")))
    for entry in Path("/proc").glob("[0-9]*"):
        words = text(entry / "cmdline").split("\0")
        mine = str(root) in words or name in text(entry / "cgroup")
        if not mine:
            continue
        host.processes[int(entry.name)] = " ".join(words).strip() or text(entry / "comm").strip()
        host.namespaces |= set(links(entry / "ns")) - own
        host.held |= {f"{entry.name}: {link}" for link in links(entry / "fd") if link.startswith(("net:[", "mnt:["))}
    for folder, folders, _ in os.walk(CGROUPS):
        if Path(folder).name == name:
            host.cgroups |= {folder, *(f"{folder}/{f}" for f in folders)}
    lines = text(Path("/proc/self/mountinfo")).splitlines()
    host.mounts = {line for line in lines if str(root) in line or "gpve" in line}
    if root.exists():
        host.files = {str(p.relative_to(root)) for p in root.rglob("*")}
    return host


# What a daemon that has no agents may leave in its directory.
KEPT_FILES = {"lease", "agents", "events", "daemon.lock", "parked", "templates"}


def leaked_files(host: Host) -> set[str]:
    fine = lambda f: f in KEPT_FILES or f.startswith(("events/", "spawner-"))  # noqa: E731
    return {f for f in host.files if not fine(f) or f.endswith(".sock")}
