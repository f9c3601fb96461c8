"""alibaba-dlrm-2025: instances of long-running inference services (Yang et al., NSDI 2025).

Each instance is a guest of kind `vcluster`: its application is its group, ``max_instance_per_node`` the
limit of that group on a node (-1: none). CPU in vCPUs, memory in GiB, whole GPUs. An empty
``creation_time`` ran already at second 0, an empty ``deletion_time`` outlives the trace and never departs.
``rdma`` and ``disk`` requests are not modelled, so nodes fill further than they could with one NIC each.

Default cluster (the trace has no nodes): 2,400 nodes of 192 vCPUs and 1,024 GiB for the 393,616 vCPUs and
1,997,110 GiB that CPU instances take at their peak (85 % and 81 %), and 512 of 192 vCPUs, 1,024 GiB and 8
GPUs for the 3,414 GPUs at peak (83 %).
"""

from pathlib import Path

import numpy as np

from gpve.model import FOREVER, Guests, Kind, Nodes
from gpve_sim.cluster_size import identical_nodes, joined_nodes
from gpve_sim.readers.schema import refuse_before
from gpve_sim.readers.table import CsvTable
from gpve_sim.trace import Trace

NAME = "alibaba-dlrm"
SUMMARY = "Alibaba DLRM inference services 2025: disaggregated_DLRM_trace.csv"

COLUMNS = (
    "instance_sn", "role", "app_name", "cpu_request", "cpu_limit", "gpu_request", "gpu_limit", "rdma_request",
    "rdma_limit", "memory_request", "memory_limit", "disk_request", "disk_limit", "max_instance_per_node",
    "creation_time", "scheduled_time", "deletion_time",
)  # fmt: skip
NOTES = (
    "Each instance is a guest of kind vcluster; its group is its application.",
    "RDMA and disk requests are not modelled.",
)


def recognises(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether the columns are those of the trace."""
    return {"instance_sn", "app_name", "max_instance_per_node"} <= set(columns)


def read(path: Path, *, seed: int = 0, nodes: Nodes | None = None) -> Trace:
    """The instances of ``path`` in file order; ``seed`` is not used."""
    table = CsvTable(path)
    table.expect(COLUMNS)
    table.some_rows("a trace needs guests")
    arrival = table.floats("creation_time", empty=0.0)
    departure = table.floats("deletion_time", empty=FOREVER)
    refuse_before(table, departure, "deletion_time", arrival)
    group, group_names = table.texts("app_name")
    limit = table.codes("max_instance_per_node", low=-1)
    count = table.codes("gpu_request")
    guests = Guests(
        table.unique("instance_sn"),
        np.full(table.rows, Kind.VCLUSTER, dtype=np.uint8),
        arrival,
        departure,
        np.ceil(table.floats("cpu_request") * 1000).astype(np.int64),
        np.ceil(table.floats("memory_request") * 1024).astype(np.int64),
        gpu_count=count,
        gpu_milli=np.where(count > 0, 1000, 0).astype(np.int32),
        group=group,
        max_per_node=np.maximum(limit, 0).astype(np.int32),
        group_names=group_names,
    )
    notes: tuple[str, ...] = NOTES
    if nodes is None:
        nodes = default_cluster()
        notes += (
            "Default cluster: 2,400 nodes of 192 vCPUs and 1,024 GiB, 512 with 8 GPUs besides "
            "(an assumption: the trace has no nodes).",
        )
    return Trace(str(path), guests, nodes, None, True, {path.name: table.sha256}, notes)


def default_cluster() -> Nodes:
    """The nodes that the module describes."""
    return joined_nodes(
        [
            identical_nodes(2400, 192_000, 1024 * 1024, prefix="cpu-node"),
            identical_nodes(512, 192_000, 1024 * 1024, 8, prefix="gpu-node"),
        ]
    )
