"""Workloads drawn by a seed from committed specifications: counts and shares with their citation, never rows.

A specification (traces/*.toml) has [nodes], [requests] (counts of what is asked for), [lifetimes] (percentiles, or
bins with shares) and [arrivals] (process "poisson" or "batches"). Each purpose draws from a stream of its own, so the
same seed gives the same bytes.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpve.model import FOREVER, KINDS, Guests, InputError, Kind, Nodes
from gpve_sim.cluster_size import FILL, identical_nodes, numbered_ids, peak
from gpve_sim.committed import data_file, read_toml
from gpve_sim.streams import stream
from gpve_sim.trace import Trace

Spec = dict[str, Any]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PEERS_VCPUS = (1, 2, 4, 8, 16)
PEERS_SHARES = (0.30, 0.30, 0.20, 0.12, 0.08)
PEERS_LIFE_S, PEERS_SIGMA = 7200.0, 1.0
PEERS_HOST = (64_000, 256 * 1024)
STEP_S = 300
"""Lives in bins are multiples of this, as they are in azure-vm-2017."""
MOST_GUESTS = 100_000_000


def load_spec(name: str | Path) -> Spec:
    """The specification of a committed name (``openb-like``) or a path. Raises `InputError`."""
    path = Path(name)
    if path.suffix != ".toml":
        path = data_file(f"{name}.toml")
    spec = read_toml(path)
    for key in ("name", "kind", "prefix", "nodes", "requests", "lifetimes", "arrivals"):
        if key not in spec:
            raise InputError("the key is missing from the specification", path, None, key)
    if spec["kind"] not in KINDS:
        raise InputError(f"unknown kind {spec['kind']!r}; known: {', '.join(KINDS)}", path, None, "kind")
    return spec


def generated(name: str, *, seed: int = 0, **options: Any) -> Trace:
    """The trace of a generator's name with its options; see `generate` and `peers`."""
    takes = ("guests", "load", "hosts") if name == "peers" else ("guests", "load", "departures")
    options = {key: value for key, value in options.items() if value is not None}
    for key in options:
        if key not in takes:
            raise InputError(f"generated/{name} takes no {key}; it takes {', '.join(takes)}")
    if name == "peers":
        return peers(seed=seed, **options)
    return generate(load_spec(name), seed=seed, **options)


def generate(
    spec: Spec,
    *,
    seed: int = 0,
    guests: int | None = None,
    load: float | None = None,
    departures: bool | None = None,
) -> Trace:
    """Draw a trace from a specification.

    With an inventory of nodes: ``guests`` alone scales the cluster with them, so that the share of GPUs asked for
    stays; ``load`` alone (milli-GPU asked over capacity) changes the number of guests over the same cluster; both
    together size the cluster. Without departures all guests come in random order and stay; with ``departures``
    ``load`` is the mean share of GPUs asked for at any time: as many guests as that takes run already at second 0,
    for the rest of their lives (which the long-lived dominate), the others arrive by a Poisson process; by default as
    many again. Without an inventory, ``load`` is the share of the cluster that the peak demand takes (0.8). Raises
    `InputError`.
    """
    _check(guests, load)
    if spec["arrivals"]["process"] == "batches":
        if departures is False:
            raise InputError(f"{spec['name']} has departures: replay it with --no-departures instead")
        return _batches(spec, seed, guests or spec["arrivals"]["guests"], FILL if load is None else load)
    return _inventoried(spec, seed, guests, load, bool(departures))


def peers(*, seed: int = 1, hosts: int = 1000, guests: int = 100_000, load: float = FILL) -> Trace:
    """The workload on which simulators were compared: N hosts of 64 vCPUs and 256 GiB, M virtual machines.

    Poisson arrivals at the rate that keeps the share ``load`` of all vCPUs in use; lognormal lives of mean 7,200 s
    and sigma 1.0; 1/2/4/8/16 vCPUs with .30/.30/.20/.12/.08; 4 GiB for each vCPU.
    """
    _check(guests, load)
    if hosts < 1:
        raise InputError(f"{hosts} hosts: at least 1 is needed")
    vcpus = np.array(PEERS_VCPUS, dtype=np.int64)
    mean = float((vcpus * PEERS_SHARES).sum())
    rate = load * hosts * PEERS_HOST[0] / 1000 / (mean * PEERS_LIFE_S)
    arrival = _poisson(stream(seed, "peers arrivals"), guests, rate)
    mu = math.log(PEERS_LIFE_S) - PEERS_SIGMA**2 / 2
    life = stream(seed, "peers lifetimes").lognormal(mu, PEERS_SIGMA, guests)
    size = vcpus[_choose(stream(seed, "peers sizes"), np.array(PEERS_SHARES), guests)]
    columns = Guests(
        numbered_ids("vm", guests),
        np.full(guests, Kind.VM, dtype=np.uint8),
        arrival,
        arrival + life,
        size * 1000,
        size * 4096,
    )
    note = (
        f"Generated (seed {seed}): Poisson arrivals, lognormal lifetimes, {load:.0%} of the vCPUs of "
        f"{hosts:,} hosts in use."
    )
    return Trace("generated/peers", columns, identical_nodes(hosts, *PEERS_HOST, prefix="host"), notes=(note,))


def inventory_of(spec: Spec, factor: float = 1.0) -> Nodes:
    """The nodes of a specification, ``factor`` times as many, in an order in which kinds take turns.

    Nodes of one kind are spread evenly over the order, so that the tie-break order favours no kind.
    """
    rows = spec["nodes"]["rows"]
    counts = np.array([row[0] for row in rows], dtype=np.int64)
    wanted = counts if factor == 1.0 else apportion(counts, max(1, round(float(counts.sum()) * factor)))
    kind = np.repeat(np.arange(len(rows)), wanted)
    within = np.concatenate([(np.arange(n) + 0.5) / n for n in wanted if n])
    kind = kind[np.lexsort((kind, within))]
    models = tuple(dict.fromkeys(row[4] for row in rows if row[3]))
    column = [np.array([row[i] for row in rows])[kind] for i in (1, 2, 3)]
    model = np.array([models.index(row[4]) if row[3] else -1 for row in rows], dtype=np.int32)[kind]
    return Nodes(
        tuple(f"node-{i:05d}" for i in range(len(kind))),
        column[0].astype(np.int64), column[1].astype(np.int64), column[2].astype(np.int32), model, models,
    )  # fmt: skip


def apportion(counts: Ints, total: int) -> Ints:
    """``total`` shared out in proportion to ``counts``, by largest remainder, ties to the first."""
    exact = counts * (total / counts.sum())
    shares = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - shares), kind="stable")[: total - int(shares.sum())]
    shares[rest] += 1
    return shares


def _inventoried(spec: Spec, seed: int, guests: int | None, load: float | None, departures: bool) -> Trace:
    rows = np.array(spec["requests"]["rows"], dtype=np.int64)
    counts = rows[:, 0]
    asked = (rows[:, 3] * rows[:, 4]).astype(np.float64)
    cluster = inventory_of(spec)
    capacity = 1000.0 * float(cluster.gpu_count.sum())
    base = float((counts * asked).sum()) / capacity
    usual = int(counts.sum())
    share = base if load is None else load
    mean_asked = float((counts * asked).sum()) / usual
    running = max(1, round(share * capacity / mean_asked))
    if departures:
        total = guests or 2 * running
    else:
        total = guests or (usual if load is None else max(1, round(usual * load / base)))
        if guests is not None:
            cluster = inventory_of(spec, guests / usual * (1.0 if load is None else base / load))
    name = spec["name"]
    kinds = np.repeat(np.arange(len(rows)), counts if total == usual else apportion(counts, total))
    kinds = stream(seed, f"{name} requests").permutation(kinds)
    arrival, departure = np.arange(total, dtype=np.float64), np.full(total, FOREVER)
    if departures:
        running = min(running, total)
        points = np.array(spec["lifetimes"]["percentiles_s"], dtype=np.float64)
        mean_life = float((points[1:] + points[:-1]).mean() / 2)
        draw = stream(seed, f"{name} lifetimes")
        life = np.concatenate([_residual_lives(points, draw, running), _lives(points, draw, total - running)])
        arrival[:running] = 0.0
        arrivals = stream(seed, f"{name} arrivals")
        arrival[running:] = _poisson(arrivals, total - running, share * capacity / (mean_asked * mean_life))
        departure = arrival + life
    drawn = rows[kinds]
    columns = Guests(
        numbered_ids(spec["prefix"], total),
        np.full(total, KINDS.index(spec["kind"]), dtype=np.uint8),
        arrival, departure, drawn[:, 1].copy(), drawn[:, 2].copy(),
        drawn[:, 3].astype(np.int32), drawn[:, 4].astype(np.int32),
    )  # fmt: skip
    if departures:
        how = (
            f"asking for {share:.0%} of the GPUs on average; {running:,} of them run already at second 0, for the "
            "rest of their lives"
        )
    else:
        gpus = float((asked[kinds]).sum()) / (1000.0 * float(cluster.gpu_count.sum()))
        how = f"in random order without departures, asking for {gpus:.1%} of the GPUs"
    note = f"Generated (seed {seed}) from {spec['source']['trace']}: {total:,} guests {how}."
    return Trace(f"generated/{name}", columns, cluster, departures=departures, notes=(note, _citation(spec)))


def _batches(spec: Spec, seed: int, guests: int, load: float) -> Trace:
    name, arrivals = spec["name"], spec["arrivals"]
    sizes = np.array(arrivals["batch_rows"], dtype=np.int64)
    draw = stream(seed, f"{name} batches")
    mean = float(((sizes[:, 0] + sizes[:, 1]) / 2 * sizes[:, 2]).sum() / sizes[:, 2].sum())
    members = np.zeros(0, dtype=np.int64)
    while members.sum() < guests:
        chosen = sizes[_choose(draw, sizes[:, 2].astype(np.float64), max(64, int(guests / mean)))]
        members = np.concatenate([members, draw.integers(chosen[:, 0], chosen[:, 1], endpoint=True)])
    batch = np.repeat(np.arange(len(members), dtype=np.int32), members)[:guests]
    begins = _daily(stream(seed, f"{name} arrivals"), int(batch[-1]) + 1, arrivals["batches_per_hour"])
    first = np.concatenate([[True], batch[1:] != batch[:-1]])
    rows = np.array(spec["requests"]["rows"], dtype=np.int64)
    flavour = _repeating(
        stream(seed, f"{name} flavours"), first, arrivals["same_flavour"], rows[:, 0].astype(np.float64)
    )
    bins = np.array(spec["lifetimes"]["rows"], dtype=np.float64)
    lives = stream(seed, f"{name} lifetimes")
    never = spec["lifetimes"]["never"]
    life = _repeating(lives, first, arrivals["same_lifetime"], np.append(bins[:, 2], never))
    ends = life < len(bins)
    low, high = (np.append(bins[:, i], 0.0)[life] for i in (0, 1))
    lived = low + STEP_S * np.floor(lives.random(guests) * ((high - low) / STEP_S + 1))
    arrival = begins[batch]
    columns = Guests(
        numbered_ids(spec["prefix"], guests),
        np.full(guests, KINDS.index(spec["kind"]), dtype=np.uint8),
        arrival,
        np.where(ends, arrival + lived, FOREVER),
        rows[flavour, 1],
        rows[flavour, 2],
        group=batch,
        group_names=tuple(f"batch-{i}" for i in range(int(batch[-1]) + 1)),
    )
    node = spec["nodes"]
    needed = max(
        peak(columns, columns.cpu_milli) / node["cpu_milli"],
        peak(columns, columns.memory_mib) / node["memory_mib"],
    )
    nodes = identical_nodes(max(1, math.ceil(needed / load)), node["cpu_milli"], node["memory_mib"])
    note = (
        f"Generated (seed {seed}) from {spec['source']['trace']}: {guests:,} VMs, whose peak demand is "
        f"{load:.0%} of {len(nodes):,} nodes."
    )
    return Trace(f"generated/{name}", columns, nodes, notes=(note, _citation(spec)))


def _repeating(draw: np.random.Generator, first: NDArray[np.bool_], same: float, shares: Floats) -> Ints:
    """Draws by ``shares``, where a member of a batch has what the one before it has with probability ``same``."""
    values = _choose(draw, shares, len(first))
    fresh = first | (draw.random(len(first)) >= same)
    return values[np.maximum.accumulate(np.where(fresh, np.arange(len(first)), 0))]


def _daily(draw: np.random.Generator, count: int, per_hour: list[float]) -> Floats:
    """Times of a Poisson process whose rate changes with the hour of the day, from midnight on."""
    events = np.cumsum(draw.exponential(1.0, count))
    days = math.ceil(events[-1] / sum(per_hour)) + 1
    expected = np.concatenate([[0.0], np.cumsum(np.tile(per_hour, days))])
    return np.interp(events, expected, 3600.0 * np.arange(len(expected)))


def _poisson(draw: np.random.Generator, count: int, rate: float) -> Floats:
    return np.cumsum(draw.exponential(1.0 / rate, count))


def _choose(draw: np.random.Generator, shares: Floats, count: int) -> Ints:
    """(count,) places drawn by ``shares``, which need not sum to one."""
    edges = np.cumsum(shares) / np.sum(shares)
    edges[-1] = 1.0
    return np.searchsorted(edges, draw.random(count), side="right").astype(np.int64)


def _lives(points: Floats, draw: np.random.Generator, count: int) -> Floats:
    """Lives by their percentiles, spread evenly between two of them."""
    return np.interp(draw.random(count) * (len(points) - 1), np.arange(len(points)), points)


def _residual_lives(points: Floats, draw: np.random.Generator, count: int) -> Floats:
    """What is left of the lives of those that run at one moment: long lives are met in proportion to their length."""
    low, high = points[:-1], points[1:]
    place = _choose(draw, (low + high) / 2, count)
    whole = np.sqrt(low[place] ** 2 + draw.random(count) * (high[place] ** 2 - low[place] ** 2))
    return whole * draw.random(count)


def _check(guests: int | None, load: float | None) -> None:
    if guests is not None and not 1 <= guests <= MOST_GUESTS:
        raise InputError(f"{guests} guests: between 1 and {MOST_GUESTS:,} can be generated")
    if load is not None and not 0 < load <= 100:
        raise InputError(f"a load of {load:g} is not above 0 (0.8 is 80 %)")


def _citation(spec: Spec) -> str:
    source = spec["source"]
    return f"Counts and shares from {source['citation']} ({source['licence']})."
