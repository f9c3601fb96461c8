"""A load with a known perfect packing."""

import numpy as np
import pyarrow as pa
from gpve_sim.trace import Trace

from gpve.model import FOREVER, Guests, Nodes


def halves_that_fill(nodes: int = 4) -> Trace:
    """Guests of 16 cores and half a GPU; four fill a node of 64 cores and two GPUs, and all fill all nodes."""
    count = 4 * nodes
    guests = Guests(
        ids=pa.array([f"g{i}" for i in range(count)]),
        kind=np.zeros(count, dtype=np.uint8),
        arrival_s=np.arange(count, dtype=np.float64),
        departure_s=np.full(count, FOREVER),
        cpu_milli=np.full(count, 16_000),
        memory_mib=np.full(count, 1024),
        gpu_count=np.ones(count, dtype=np.int32),
        gpu_milli=np.full(count, 500, dtype=np.int32),
    )
    cluster = Nodes(
        names=tuple(f"n{i}" for i in range(nodes)),
        cpu_milli=np.full(nodes, 64_000),
        memory_mib=np.full(nodes, 65_536),
        gpu_count=np.full(nodes, 2, dtype=np.int32),
        gpu_model=np.zeros(nodes, dtype=np.int32),
        gpu_model_names=("A10",),
    )
    return Trace("halves", guests, cluster, departures=False)
