"""Loads drawn with numpy: larger than Hypothesis likes to draw."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from gpve.model import Guests, Nodes
from gpve.model.columns import FOREVER


def load_of_size(rng: np.random.Generator, guests: int, nodes: int) -> tuple[Guests, Nodes]:
    """Guests of a few sizes, with GPUs, limits in groups, and departures, over a heterogeneous cluster."""
    arrival = np.sort(rng.uniform(0, 100, guests))
    gpu_count = rng.choice([0, 1, 2], guests, p=[0.3, 0.6, 0.1]).astype(np.int32)
    share = rng.choice([250, 500, 1000], guests).astype(np.int32)
    columns = Guests(
        ids=pa.array([f"g{i}" for i in range(guests)]),
        kind=np.zeros(guests, dtype=np.uint8),
        arrival_s=arrival,
        departure_s=arrival + rng.exponential(40, guests),
        cpu_milli=rng.choice([500, 1000, 4000], guests),
        memory_mib=rng.choice([512, 2048, 8192], guests),
        gpu_count=gpu_count,
        gpu_milli=np.where(gpu_count == 0, 0, np.where(gpu_count == 1, share, 1000)).astype(np.int32),
        group=rng.integers(-1, 4, guests).astype(np.int32),
        group_names=("a", "b", "c", "d"),
        max_per_node=rng.choice([0, 1, 3], guests).astype(np.int32),
    )
    count = rng.choice([0, 2, 8], nodes).astype(np.int32)
    return columns, Nodes(
        names=tuple(f"n{i}" for i in range(nodes)),
        cpu_milli=rng.choice([8000, 32000], nodes),
        memory_mib=rng.choice([16384, 65536], nodes),
        gpu_count=count,
        gpu_model=np.where(count > 0, 0, -1).astype(np.int32),
        gpu_model_names=("A10",),
    )


def small_world(
    arrival: list[float], departure: list[float], add_s: list[float], gpu_milli: Sequence[int] | None = None
) -> tuple[Guests, Nodes]:
    """Guests of 1 CPU and nodes of 4, with a GPU each where the guests ask for parts of one."""
    count, shares = len(arrival), np.zeros(len(arrival)) if gpu_milli is None else np.array(gpu_milli)
    amount = len(add_s)
    guests = Guests(
        ids=pa.array([f"g{i}" for i in range(count)]),
        kind=np.zeros(count, dtype=np.uint8),
        arrival_s=np.array(arrival),
        departure_s=np.array(departure),
        cpu_milli=np.full(count, 1000),
        memory_mib=np.full(count, 512),
        gpu_count=(shares > 0).astype(np.int32),
        gpu_milli=shares.astype(np.int32),
    )
    cluster = Nodes(
        names=tuple(f"n{i}" for i in range(amount)),
        cpu_milli=np.full(amount, 4000),
        memory_mib=np.full(amount, 4096),
        gpu_count=np.full(amount, int(shares.any()), dtype=np.int32),
        gpu_model=np.full(amount, 0 if shares.any() else -1, dtype=np.int32),
        gpu_model_names=("T4",),
        add_s=np.array(add_s),
    )
    return guests, cluster


def crowded(seed: int) -> tuple[Guests, Nodes]:
    """More guests than fit on one to three nodes, which join and are drained at times at which guests come and go.

    Rows are not in the order of arrival; lives may have no length; some worlds have priorities, deadlines, limits.
    """
    rng = np.random.default_rng(seed)
    guests, nodes = int(rng.integers(8, 30)), int(rng.integers(1, 4))
    # Sums of tenths are not what they seem: where a guest starts late, both fidelities must add up alike.
    arrival = rng.integers(0, 12, guests) + rng.choice([0.0, 0.0, 0.0, 0.1, 0.7], guests)
    # In half of the worlds many are equal, and share a queue.
    alike = rng.random() < 0.5
    gpu_count = rng.choice([0] if alike else [0, 0, 1], guests).astype(np.int32)
    columns = Guests(
        ids=pa.array([f"g{i}" for i in range(guests)]),
        kind=np.zeros(guests, dtype=np.uint8),
        arrival_s=arrival,
        departure_s=arrival + rng.choice([0.0, 0.1, 1.0, 2.0, 3.0, 5.0], guests),
        cpu_milli=rng.choice([500, 1000, 2000, 3000], guests),
        memory_mib=rng.choice([512] if alike else [512, 1024, 4096], guests),
        gpu_count=gpu_count,
        gpu_milli=np.where(gpu_count > 0, rng.choice([300, 500, 1000], guests), 0).astype(np.int32),
        group=rng.integers(-1, 2, guests).astype(np.int32),
        group_names=("a", "b"),
        max_per_node=rng.choice([0, 0, 2], guests).astype(np.int32) if rng.random() < 0.4 else None,
        priority=rng.integers(-1, 3, guests).astype(np.int32) if rng.random() < 0.7 else None,
        deadline_s=arrival + rng.choice([0.0, 2.0, 4.0, FOREVER], guests) if rng.random() < 0.5 else None,
    )
    count = rng.choice([0, 1, 2], nodes).astype(np.int32)
    return columns, Nodes(
        names=tuple(f"n{i}" for i in range(nodes)),
        cpu_milli=rng.choice([2000, 4000, 8000], nodes),
        memory_mib=rng.choice([4096, 8192], nodes),
        gpu_count=count,
        gpu_model=np.where(count > 0, 0, -1).astype(np.int32),
        gpu_model_names=("T4",),
        add_s=rng.choice([0.0, 0.0, 3.0, 6.0], nodes),
        drain_s=rng.choice([FOREVER, FOREVER, 3.0, 6.0], nodes),
    )
