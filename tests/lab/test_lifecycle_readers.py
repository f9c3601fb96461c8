"""Whatever reader a trace came through, both fidelities place it alike."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gpve_sim.catalogue import ENTRIES, load
from gpve_sim.readers import READERS
from gpve_sim.readers.kubernetes import GPU, PRODUCT
from gpve_sim.trace import Trace
from gpve_sim.write import write_trace
from pyarrow import parquet

from gpve.model import KINDS
from tests.lab.alike import part, same

MAPPING = "id=name,kind=what,arrival_s=ms/1000,departure_s=end_ms/1000,cpu_milli=cores*1000,memory_mib=bytes/1048576"


def in_our_schema(folder: Path) -> Trace:
    """Guests with shares of GPUs, written as the lab writes traces."""
    write_trace(part("openb/gpushare40", 200), folder / "ours.csv")
    return load(folder / "ours.csv")


def with_own_columns(folder: Path) -> Trace:
    """VMs in milliseconds, cores and bytes."""
    trace = part("azure-vm-2017/dev", 200)
    guests = trace.guests
    ends = guests.departure_s * 1000.0
    table = {
        "name": guests.ids,
        "what": pa.array([KINDS[int(kind)] for kind in guests.kind]),
        "ms": pa.array(guests.arrival_s * 1000.0),
        "end_ms": pa.array(np.where(np.isinf(ends), np.nan, ends), from_pandas=True),
        "cores": pa.array(guests.cpu_milli / 1000.0),
        "bytes": pa.array(guests.memory_mib * 1048576.0),
    }
    parquet.write_table(pa.table(table), folder / "mine.parquet")
    return load(folder / "mine.parquet", mapping=MAPPING, nodes=trace.nodes.take(np.arange(10)))


def as_a_snapshot(folder: Path) -> Trace:
    """Pods of a cluster with GPUs: some are bound, some want a node of their own, or a zone, or tolerate."""
    trace = part("openb/multigpu20", 200)
    nodes, guests = trace.nodes.take(np.linspace(0, len(trace.nodes) - 1, 60).astype(int)), trace.guests
    items: list[dict[str, object]] = []
    for n, name in enumerate(nodes.names):
        labels = {
            "zone": "abc"[n % 3],
            PRODUCT: nodes.gpu_model_names[nodes.gpu_model[n]] if nodes.gpu_count[n] else "",
        }
        amounts = {
            "cpu": f"{nodes.cpu_milli[n]}m",
            "memory": f"{nodes.memory_mib[n]}Mi",
            GPU: str(nodes.gpu_count[n]),
        }
        taints = [{"key": "slow", "effect": "NoSchedule"}] if n % 10 == 0 else []
        items.append(
            {
                "kind": "Node",
                "metadata": {"name": name, "labels": labels},
                "spec": {"taints": taints},
                "status": {"allocatable": amounts},
            }
        )
    alone = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [alone]}}
    assert guests.gpu_count is not None
    for g in range(len(guests)):
        asked = {
            "cpu": f"{guests.cpu_milli[g]}m",
            "memory": f"{guests.memory_mib[g]}Mi",
            GPU: str(guests.gpu_count[g]),
        }
        spec: dict[str, object] = {"containers": [{"name": "c", "resources": {"requests": asked}}], "priority": g % 4}
        spec |= {"nodeName": nodes.names[0]} if g % 3 == 0 else {}
        spec |= {"affinity": affinity} if g % 16 == 0 else {}
        spec |= {"nodeSelector": {"zone": "b"}} if g % 7 == 0 else {}
        spec |= {"tolerations": [{"operator": "Exists"}]} if g % 5 == 0 else {}
        metadata = {"name": f"p{g}", "namespace": "ns", "labels": {"app": "db"}}
        items.append({"kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})
    path = folder / "snapshot.json"
    path.write_text(json.dumps({"kind": "List", "items": items}))
    read = load(path)
    assert read.guests.group is not None
    assert read.guests.selector is not None
    assert read.guests.tolerations is not None
    return read


MADE = {"schema": in_our_schema, "mapping": with_own_columns, "kubernetes": as_a_snapshot}
"""Readers of which the catalogue names no trace."""


def test_no_reader_is_left_out():
    assert {entry.reader for entry in ENTRIES.values() if entry.reader is not None} | MADE.keys() >= READERS.keys()


@pytest.mark.parametrize("queue", ["drop", "wait", "backfill"])
@pytest.mark.parametrize("policy", ["best-fit", "random"])
@pytest.mark.parametrize("reader", MADE)
def test_traces_of_other_readers_place_alike(reader, policy, queue, tmp_path):
    """On a tenth of the nodes, too, where guests wait or are turned away."""
    trace = MADE[reader](tmp_path)
    same(trace, policy, seed=2, queue=queue)
    few = trace.nodes.take(np.arange(0, len(trace.nodes), 10))
    kept = trace.guests.take(np.arange(100))
    waited = same(replace(trace, guests=kept), policy, seed=2, queue=queue, nodes=few)
    # Of a snapshot nobody ever ends, so whoever has to wait waits for ever.
    assert waited > 0 or queue == "drop" or reader != "mapping"
