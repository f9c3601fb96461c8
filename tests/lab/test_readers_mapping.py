"""A user's own columns, and a snapshot of Kubernetes."""

import json
from pathlib import Path

import numpy as np
import pytest
from gpve_sim.catalogue import load, load_nodes
from gpve_sim.readers.kubernetes import quantity

from gpve.model import FOREVER, KINDS, InputError

OWN = "vm,start,lives,cores,gib,tenant\nx,1000,60000,0.1,1.5,t1\ny,2000,,2,4,\n"
MAPPING = "id=vm,arrival_s=start/1000,duration_s=lives/1000,cpu_milli=cores*1000,memory_mib=gib*1024,group=tenant"


def own_file(folder: Path, text: str = OWN) -> Path:
    path = folder / "mine.csv"
    path.write_text(text)
    return path


def test_own_columns(tmp_path: Path) -> None:
    guests = load(own_file(tmp_path), mapping=MAPPING).guests
    assert guests.ids.to_pylist() == ["x", "y"]
    assert guests.arrival_s.tolist() == [1, 2]
    assert guests.departure_s.tolist() == [61, FOREVER]
    assert guests.cpu_milli.tolist() == [100, 2000]
    assert guests.memory_mib.tolist() == [1536, 4096]
    assert guests.group is not None
    assert guests.group.tolist() == [0, -1]
    assert guests.kind.tolist() == [0, 0]


def test_own_columns_by_toml_with_constants(tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text('[columns]\nkind = "\'agent\'"\ncpu_milli = "cores*1000"\nmemory_mib = "512"\n')
    guests = load(own_file(tmp_path), mapping=str(file)).guests
    assert guests.ids.to_pylist() == ["guest-0", "guest-1"]
    assert guests.kind.tolist() == [KINDS.index("agent")] * 2
    assert guests.memory_mib.tolist() == [512, 512]
    assert guests.arrival_s.tolist() == [0, 1]
    assert (guests.departure_s == FOREVER).all()


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("id=vm", "lacks cpu_milli"),
        ("cpu_milli=cores,memory_mib", "not COLUMN=EXPRESSION"),
        ("cpu=cores,cpu_milli=cores,memory_mib=gib", "'cpu' in the mapping is unknown"),
        ("cpu_milli=core*1000,memory_mib=gib", "mapped to 'core'; columns here: vm, start"),
        ("cpu_milli=cores/0,memory_mib=gib", "divides by 0"),
        ("cpu_milli=vm,memory_mib=gib", "line 2, column vm: 'x' is not a number"),
        ("cpu_milli=cores,memory_mib=gib,departure_s=lives,duration_s=lives", "one of them is enough"),
        ("cpu_milli=cores,memory_mib=gib,kind=tenant", "line 2, column kind (tenant): unknown kind 't1'"),
        ("cpu_milli=cores,memory_mib=gib,id=gib,arrival_s=-1", "negative"),
    ],
)
def test_bad_mappings(tmp_path: Path, mapping: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load(own_file(tmp_path), mapping=mapping)
    assert words in str(caught.value)


def test_bad_mapping_file(tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text("columns = [")
    with pytest.raises(InputError, match="not TOML"):
        load(own_file(tmp_path), mapping=str(file))


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("2", 2), ("1Gi", 2**30), ("128974848", 128974848), ("129e6", 129e6), ("129M", 129e6),
     ("123Mi", 123 * 2**20), (".5", 0.5), ("1E", 1e18), ("1E3", 1000), ("100n", 1e-7)],
)  # fmt: skip
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


def pod(name: str, requests: dict[str, str], **spec: object) -> dict[str, object]:
    containers = [{"name": "c", "resources": {"requests": requests}}]
    return {
        "kind": "Pod", "metadata": {"name": name, "namespace": "ns", "labels": {"app": "db"}},
        "spec": {"containers": containers, **spec}, "status": {"phase": "Running"},
    }  # fmt: skip


def test_a_snapshot_of_kubernetes(tmp_path: Path) -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    alone = [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]
    elsewhere = [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]
    node = {
        "kind": "Node", "metadata": {"name": "n1", "labels": {"zone": "a", "nvidia.com/gpu.product": "A100"}},
        "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"},
                            {"key": "soft", "effect": "PreferNoSchedule"}]},
        "status": {"allocatable": {"cpu": "3920m", "memory": "16Gi", "nvidia.com/gpu": "4"}},
    }  # fmt: skip
    items = [
        node,
        pod("waits", {"cpu": "1", "memory": "1Gi"}, nodeSelector={"zone": "a"},
            tolerations=[{"key": "gpu", "operator": "Exists"}], priority=7),
        pod("bound", {"cpu": "250m", "memory": "100M", "nvidia.com/gpu": "2"}, nodeName="n1",
            tolerations=[{"key": "gpu", "value": "yes"}], affinity={"podAntiAffinity": {required: alone}}),
        pod("strict", {"cpu": "1"}, affinity={"podAntiAffinity": {required: elsewhere}},
            initContainers=[{"resources": {"limits": {"cpu": "3"}}}], tolerations=[{"key": "gpu", "value": "no"}]),
        {**pod("done", {"cpu": "9"}), "status": {"phase": "Succeeded"}},
    ]  # fmt: skip
    path = tmp_path / "snapshot.json"
    path.write_text(json.dumps({"kind": "List", "items": items}))
    trace = load(path)
    nodes, guests = trace.nodes, trace.guests
    assert nodes.taints == (frozenset({"gpu=yes:NoSchedule"}),)
    assert (nodes.cpu_milli[0], nodes.memory_mib[0], nodes.gpu_count[0], nodes.gpu_model_names) == (
        3920, 16384, 4, ("A100",),
    )  # fmt: skip
    assert guests.ids.to_pylist() == ["ns/bound", "ns/waits", "ns/strict"]
    assert guests.arrival_s.tolist() == [0, 1, 2]
    assert guests.cpu_milli.tolist() == [250, 1000, 3000]
    assert guests.memory_mib.tolist() == [96, 1024, 0]
    for column, expected in (
        (guests.gpu_count, [2, 0, 0]), (guests.gpu_milli, [1000, 0, 0]), (guests.max_per_node, [1, 0, 0]),
        (guests.group, [0, -1, -1]), (guests.selector, [-1, 0, -1]), (guests.tolerations, [0, 0, -1]),
        (guests.priority, [0, 7, 0]),
    ):  # fmt: skip
        assert column is not None
        assert column.tolist() == expected
    assert not trace.departures
    assert any("anti-affinity of 1 pods is not expressed" in note for note in trace.notes)
    assert load_nodes(path).names == ("n1",)
    assert np.isinf(guests.departure_s).all()
