"""azure-vm-2017: first-party VMs of one Azure region (Cortez et al., "Resource Central", SOSP 2017).

Read from Huawei's preparation: a file of flavours and one of lifetimes (``v1.dev.txt``,
``v1.dev.c2100000.txt``), one line for each 300 s, items in the same places; ``flav_map.txt`` and
``v1.interval_map.txt`` give their meaning. All VMs of a line arrive at its second, counted from the first
line's. VMs that a tenant started together in a bin (a batch, between bars) are a group, without a limit.

Lifetimes are binned, and the map gives the multiples of 300 s that each bin holds: one (bins 0 to 12; bin 0 is
0 s: gone within the bin it arrived in), an hour of them, a day, ten days. One of them is drawn by the seed, from
the stream "azure-vm-2017 lifetimes". Censored VMs (``C``) still ran when the trace ended: they never depart.

Default cluster: equal nodes of 64 cores and 448 GiB (7 GiB a core, as the largest flavour has), as many as
make the peak demand 80 % of the cluster when every VM lives to the end of its bin, whatever the seed.
"""

import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpve.model import FOREVER, Guests, InputError, Kind, Nodes
from gpve_sim.cluster_size import FILL, identical_nodes, numbered_ids, peak
from gpve_sim.readers.content import content as content_of
from gpve_sim.readers.content import decoded, sha256
from gpve_sim.streams import stream
from gpve_sim.trace import Trace

NAME = "azure-vm"
SUMMARY = "Azure VMs 2017 in Huawei's preparation: the folder of v1.dev.txt, or that file"

BIN_S = 300
NODE = (64_000, 448 * 1024)
_FLAVOURS = re.compile(r"(v\d+\.[a-z]+)\.txt(\.gz)?")
_CENSORED = re.compile(r"\.c(\d+)\.txt(\.gz)?$")


def recognises(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether this is a file of flavours, or a folder that has one."""
    return flavour_file(path) is not None


def flavour_file(path: Path) -> Path | None:
    """The file of flavours that ``path`` is or has."""
    if not path.is_dir():
        return path if _FLAVOURS.fullmatch(path.name) else None
    return next((p for p in sorted(path.iterdir()) if _FLAVOURS.fullmatch(p.name)), None)


def read(path: Path, *, seed: int = 0, nodes: Nodes | None = None) -> Trace:
    """The VMs of the slice whose file of flavours ``path`` is or has."""
    flavours = flavour_file(path)
    if flavours is None:
        raise InputError("no file of flavours here (such as v1.dev.txt)", path)
    slice_name = flavours.name.removesuffix(".gz").removesuffix(".txt")
    lifetimes = _beside(flavours, rf"{re.escape(slice_name)}\.c\d+\.txt(\.gz)?")
    maps = (
        _beside(flavours, r"flav_map\.txt(\.gz)?"),
        _beside(flavours, rf"{slice_name.split('.')[0]}\.interval_map\.txt(\.gz)?"),
    )
    sources: dict[str, str] = {}
    cpu_of, memory_of = _flavour_map(maps[0], _text(maps[0], sources))
    low, high = _bins(maps[1], _text(maps[1], sources))
    seconds, letters, line_of, batch = _items(flavours, _text(flavours, sources))
    seconds_too, lives, line_too, batch_too = _items(lifetimes, _text(lifetimes, sources))
    if seconds != seconds_too:
        raise InputError(f"its bins are not those of {flavours.name}", lifetimes)
    unequal = np.flatnonzero(
        np.bincount(line_of, minlength=len(seconds)) != np.bincount(line_too, minlength=len(seconds))
    )
    if len(unequal) or (batch != batch_too).any():
        line = int(unequal[0]) + 1 if len(unequal) else int(line_of[np.argmax(batch != batch_too)]) + 1
        raise InputError(f"its VMs are not those of {flavours.name}", lifetimes, line)
    codes = _known(letters, list(cpu_of), line_of, flavours, "flavour")
    names = [f"{mark}{b}" for mark in "UC" for b in range(len(low))]
    life = _known(lives, names, line_of, lifetimes, "lifetime")
    bins = life % len(low)
    censored = life >= len(low)
    arrival = (np.array(seconds, dtype=np.float64) - seconds[0])[line_of]
    drawn = stream(seed, "azure-vm-2017 lifetimes").random(len(bins))
    lived = low[bins] + BIN_S * np.floor(drawn * ((high - low)[bins] / BIN_S + 1))
    guests = Guests(
        numbered_ids("vm", len(bins)),
        np.full(len(bins), Kind.VM, dtype=np.uint8),
        arrival,
        np.where(censored, FOREVER, arrival + lived),
        np.array(list(cpu_of.values()), dtype=np.int64)[codes],
        np.array(list(memory_of.values()), dtype=np.int64)[codes],
        group=batch,
        group_names=tuple(f"batch-{i}" for i in range(int(batch.max()) + 1)),
    )
    edge = int(found.group(1)) if (found := _CENSORED.search(lifetimes.name)) else 0
    notes: tuple[str, ...] = (
        f"Lifetimes are binned; each is drawn among the values of its bin (seed {seed}).",
        f"{int(censored.sum()):,} of {len(bins):,} VMs still ran when the trace ended "
        f"({edge - seconds[0]:,} s) and never depart.",
        "The trace has no VMs from before its first second: the cluster starts empty.",
    )
    if nodes is None:
        nodes = default_cluster(guests, np.where(censored, FOREVER, arrival + high[bins]))
        notes += (
            f"Default cluster: {len(nodes)} nodes of 64 cores and 448 GiB, so that the peak demand is at "
            f"most {FILL:.0%} of it (an assumption: the trace has no nodes).",
        )
    return Trace(str(path), guests, nodes, None, True, sources, notes)


def default_cluster(guests: Guests, latest_s: NDArray[np.float64]) -> Nodes:
    """Nodes for the peak demand when every guest departs as late as its bin allows."""
    cpu, memory = NODE
    count = max(
        peak(guests, guests.cpu_milli, latest_s) / (FILL * cpu),
        peak(guests, guests.memory_mib, latest_s) / (FILL * memory),
    )
    return identical_nodes(math.ceil(count), cpu, memory)


def _text(path: Path, sources: dict[str, str]) -> str:
    data = content_of(path)
    sources[path.name] = sha256(data)
    return decoded(data, path)


def _beside(flavours: Path, pattern: str) -> Path:
    for candidate in sorted(flavours.parent.iterdir()):
        if re.fullmatch(pattern, candidate.name):
            return candidate
    shown = pattern.replace("\\", "").replace("(.gz)?", "").replace("d+", "N")
    raise InputError(f"needs {shown} beside it", flavours)


def _flavour_map(path: Path, text: str) -> tuple[dict[str, int], dict[str, int]]:
    """CPU in milli-cores and memory in MiB of each letter."""
    cpu: dict[str, int] = {}
    memory: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        found = re.fullmatch(r"(\d+),(\d+(?:\.\d+)?) (\S+)", line)
        if not found:
            raise InputError("not `cores,memoryGB letter`", path, number)
        cores, gib, letter = found.groups()
        cpu[letter] = int(cores) * 1000
        memory[letter] = math.ceil(float(gib) * 1024)
    return cpu, memory


def _bins(path: Path, text: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last value of each bin in seconds; between them each multiple of `BIN_S` is one."""
    low: list[float] = []
    high: list[float] = []
    for number, line in enumerate(text.splitlines(), 1):
        found = re.fullmatch(r"(\d+) (\d+)", line)
        if not found or int(found.group(1)) != (number - 1) * BIN_S:
            raise InputError(f"not `seconds bin` at a step of {BIN_S} s", path, number)
        seconds, place = float(found.group(1)), int(found.group(2))
        if place == len(low):
            low.append(seconds)
            high.append(seconds)
        elif place == len(low) - 1:
            high[-1] = seconds
        else:
            raise InputError("bins are not in order", path, number)
    return np.array(low), np.array(high)


def _items(path: Path, text: str) -> tuple[list[int], list[str], NDArray[np.int32], NDArray[np.int32]]:
    """Seconds of the lines; and of all VMs in file order: the item, the line (from 0), the batch (from 0)."""
    seconds: list[int] = []
    items: list[str] = []
    lines: list[int] = []
    batches: list[int] = []
    batch = 0
    for number, line in enumerate(text.splitlines(), 1):
        stamp, space, rest = line.partition(" ")
        if not space or not stamp.isdigit():
            raise InputError("does not begin with a second", path, number)
        if seconds and int(stamp) <= seconds[-1]:
            raise InputError(f"second {stamp} does not follow {seconds[-1]}", path, number)
        seconds.append(int(stamp))
        for part in rest.split("|"):
            found = [item for item in part.split(",") if item]
            items += found
            lines += [number - 1] * len(found)
            batches += [batch] * len(found)
            batch += bool(found)
    if not items:
        raise InputError("has no VMs: a trace needs guests", path)
    return seconds, items, np.array(lines, dtype=np.int32), np.array(batches, dtype=np.int32)


def _known(items: list[str], known: list[str], lines: NDArray[np.int32], path: Path, what: str) -> NDArray[np.int64]:
    """Places of ``items`` among ``known``."""
    import pyarrow.compute as pc

    places = pc.fill_null(pc.index_in(pa.array(items), value_set=pa.array(known)), -1)
    codes = np.asarray(places.to_numpy(zero_copy_only=False), dtype=np.int64)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise InputError(f"unknown {what} {items[row]!r}", path, int(lines[row]) + 1)
    return codes
