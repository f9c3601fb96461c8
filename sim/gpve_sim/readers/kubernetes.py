"""A cluster snapshot: what ``kubectl get nodes,pods -A -o json`` prints.

Nodes: allocatable CPU, memory and nvidia.com/gpu; labels; taints of effect NoSchedule and NoExecute as
``key=value:effect`` (a cordoned node has such a taint itself); the model is the label nvidia.com/gpu.product.

Pods that have not ended are guests of kind `agent` (container-like), called namespace/name. Each asks for the sum of
its containers' requests, or an init container's where that is more, plus the overhead; a GPU is asked for whole. A
pod that is bound arrives at second 0, before the others, which arrive in order of creation at second 1 and on; none
departs. Where a pod is bound is not kept: the replay places it anew. nodeSelector and required node affinity of
single ``In`` values become the selector; tolerations name those taints of the cluster that they tolerate. Required
anti-affinity on kubernetes.io/hostname is kept where it names the pod's own labels: the pod gets a group and a limit
of one a node. What is not expressed is counted in the notes.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gpve.model import FOREVER, Guests, InputError, Kind, Nodes
from gpve_sim.readers.content import content, decoded, sha256
from gpve_sim.trace import Trace

NAME = "kubernetes"
SUMMARY = "a snapshot: kubectl get nodes,pods -A -o json"

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
HOSTNAME = "kubernetes.io/hostname"
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d+))?")
_SCALE = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_MODELLED = ("NoSchedule", "NoExecute")

Item = dict[str, Any]


def recognises(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether this is a JSON file."""
    return path.is_file() and path.name.removesuffix(".gz").endswith(".json")


def read(path: Path, *, seed: int = 0, nodes: Nodes | None = None) -> Trace:
    """Nodes and pods of the snapshot ``path``; ``seed`` is not used."""
    data = content(path)
    try:
        listed = json.loads(decoded(data, path))
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", path, error.lineno) from None
    items = listed.get("items") if isinstance(listed, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError("not a list of kubectl: the key is missing", path, None, "items")
    there = cluster_of([item for item in items if item.get("kind") == "Node"], path)
    if nodes is None and not len(there):
        raise InputError("has no nodes: a cluster needs some (kubectl get nodes,pods -A -o json)", path)
    pods = [item for item in items if item.get("kind") == "Pod" and _phase(item) not in ("Succeeded", "Failed")]
    if not pods:
        raise InputError("has no pods that run or wait: a trace needs guests", path)
    guests, notes = guests_of(pods, there, path)
    return Trace(str(path), guests, there if nodes is None else nodes, None, False, {path.name: sha256(data)}, notes)


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number: ``500m`` is 0.5, ``1Gi`` is 1073741824. Raises `ValueError`."""
    found = _QUANTITY.fullmatch(str(text))
    if not found:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 2 or 1Gi")
    number, suffix, exponent = found.groups()
    value = float(number) * (10.0 ** int(exponent) if exponent else _SCALE[suffix or ""])
    if value < 0 or not math.isfinite(value) or value > 2**63:
        raise ValueError(f"{text!r} is negative or too large")
    return value


def cluster_of(items: list[Item], path: Path) -> Nodes:
    """Nodes in the order of the snapshot."""
    names, cpu, memory, gpus, models, labels, taints = [], [], [], [], [], [], []
    for item in items:
        name = _name(item, path)
        if name in names:
            raise InputError(f"the node {name!r} is there twice", path, None, "metadata.name")
        has = item.get("status", {}).get("allocatable", {})
        amounts = _amounts(has, f"node {name}, status.allocatable", path)
        marks = item["metadata"].get("labels") or {}
        names.append(name)
        cpu.append(math.floor(amounts.get("cpu", 0.0) * 1000 + 1e-6))
        memory.append(math.floor(amounts.get("memory", 0.0) / 2**20))
        gpus.append(int(amounts.get(GPU, 0)))
        models.append(str(marks.get(PRODUCT, "GPU")) if gpus[-1] else "")
        labels.append({str(key): str(value) for key, value in marks.items()})
        taints.append(_taints(item))
    known = tuple(dict.fromkeys(model for model in models if model))
    return Nodes(
        tuple(names), np.array(cpu, dtype=np.int64), np.array(memory, dtype=np.int64),
        np.array(gpus, dtype=np.int32),
        np.array([known.index(model) if model else -1 for model in models], dtype=np.int32), known,
        labels=tuple(labels) if any(labels) else None,
        taints=tuple(taints) if any(taints) else None,
    )  # fmt: skip


def guests_of(pods: list[Item], nodes: Nodes, path: Path) -> tuple[Guests, tuple[str, ...]]:
    """Pods as guests: those that are bound first; and notes on what is not expressed."""
    pods = sorted(pods, key=lambda pod: (not _bound(pod), str(pod.get("metadata", {}).get("creationTimestamp", ""))))
    taints = sorted(set().union(*(nodes.taints or ())))
    selectors: dict[frozenset[tuple[str, str]], int] = {}
    tolerated: dict[frozenset[str], int] = {}
    groups: dict[str, int] = {}
    names: dict[str, int] = {}
    table = np.zeros((len(pods), 8), dtype=np.int64)
    lost = {"node affinity": 0, "pod affinity or anti-affinity": 0}
    for row, pod in enumerate(pods):
        metadata, spec = pod.get("metadata", {}), pod.get("spec", {})
        name = f"{metadata.get('namespace', 'default')}/{_name(pod, path)}"
        if names.setdefault(name, row) != row:
            raise InputError(f"the pod {name!r} is there twice", path, None, "metadata.name")
        asked = requests_of(spec, f"pod {name}", path)
        selector, whole = _selector(spec)
        lost["node affinity"] += not whole
        tolerates = frozenset(taint for taint in taints if _tolerates(spec.get("tolerations") or [], taint))
        group, whole = _own_group(spec, metadata)
        lost["pod affinity or anti-affinity"] += not whole
        table[row] = (
            math.ceil(asked.get("cpu", 0.0) * 1000 - 1e-6),
            math.ceil(asked.get("memory", 0.0) / 2**20 - 1e-9),
            math.ceil(asked.get(GPU, 0.0)),
            selectors.setdefault(selector, len(selectors)) if selector else -1,
            tolerated.setdefault(tolerates, len(tolerated)) if tolerates else -1,
            groups.setdefault(group, len(groups)) if group else -1,
            int(spec.get("priority") or 0),
            not _bound(pod),
        )
    waiting = table[:, 7] > 0
    gpus = table[:, 2].astype(np.int32)
    group_codes = table[:, 5].astype(np.int32)
    guests = Guests(
        pa.array(list(names)),
        np.full(len(pods), Kind.AGENT, dtype=np.uint8),
        np.where(waiting, np.cumsum(waiting), 0).astype(np.float64),
        np.full(len(pods), FOREVER),
        table[:, 0].copy(),
        table[:, 1].copy(),
        gpu_count=gpus if gpus.any() else None,
        gpu_milli=np.where(gpus > 0, 1000, 0).astype(np.int32) if gpus.any() else None,
        group=group_codes if groups else None,
        max_per_node=(group_codes >= 0).astype(np.int32) if groups else None,
        selector=table[:, 3].astype(np.int32) if selectors else None,
        tolerations=table[:, 4].astype(np.int32) if tolerated else None,
        priority=table[:, 6].astype(np.int32) if table[:, 6].any() else None,
        group_names=tuple(groups),
        selectors=tuple(selectors),
        toleration_sets=tuple(tolerated),
    )
    notes = [
        f"A snapshot: {int((~waiting).sum())} pods are bound and arrive first, {int(waiting.sum())} wait; none ends.",
        "Each pod is placed anew; where it is bound now is not kept.",
    ]
    notes += [f"{what} of {count} pods is not expressed in full." for what, count in lost.items() if count]
    return guests, tuple(note[0].upper() + note[1:] for note in notes)


def requests_of(spec: Item, where: str, path: Path) -> dict[str, float]:
    """What a pod asks for by resource: its containers together or its largest init container, plus the overhead."""
    together: dict[str, float] = {}
    for container in spec.get("containers") or []:
        _add(together, _requests(container, where, path))
    most = dict(together)
    sidecars: dict[str, float] = {}
    for container in spec.get("initContainers") or []:
        asked = _requests(container, where, path)
        if container.get("restartPolicy") == "Always":
            # A sidecar starts here and keeps running beside all that follow.
            _add(sidecars, asked)
            _add(most, asked)
            asked = {}
        for key in {*asked, *sidecars}:
            most[key] = max(most.get(key, 0.0), asked.get(key, 0.0) + sidecars.get(key, 0.0))
    _add(most, _amounts(spec.get("overhead") or {}, f"{where}, overhead", path))
    return most


def _requests(container: Item, where: str, path: Path) -> dict[str, float]:
    resources = container.get("resources") or {}
    # Kubernetes takes a limit for the request that is missing.
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return _amounts(asked, f"{where}, container {container.get('name', '')}", path)


def _amounts(texts: Item, where: str, path: Path) -> dict[str, float]:
    found = {}
    for key in ("cpu", "memory", GPU):
        if key in texts:
            try:
                found[key] = quantity(texts[key])
            except ValueError as error:
                raise InputError(f"{where}: {error}", path, None, key) from None
    return found


def _add(total: dict[str, float], more: dict[str, float]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + value


def _taints(item: Item) -> frozenset[str]:
    listed = item.get("spec", {}).get("taints") or []
    return frozenset(
        f"{taint.get('key', '')}={taint.get('value', '')}:{taint['effect']}"
        for taint in listed
        if taint.get("effect") in _MODELLED
    )


def _tolerates(tolerations: list[Item], taint: str) -> bool:
    """Whether one of the tolerations matches ``key=value:effect``, by Kubernetes' rules."""
    rest, _, effect = taint.rpartition(":")
    key, _, value = rest.partition("=")
    for toleration in tolerations:
        if toleration.get("effect") not in (None, "", effect):
            continue
        exists = toleration.get("operator") == "Exists"
        if not toleration.get("key"):
            if exists:
                return True
        elif toleration["key"] == key and (exists or (toleration.get("value") or "") == value):
            return True
    return False


def _selector(spec: Item) -> tuple[frozenset[tuple[str, str]], bool]:
    """Labels that a node must have, and whether they say all that the pod demands of nodes."""
    pairs = {(str(key), str(value)) for key, value in (spec.get("nodeSelector") or {}).items()}
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    terms = affinity.get("nodeSelectorTerms") or []
    whole = len(terms) <= 1
    for term in terms if whole else []:
        whole = whole and not term.get("matchFields")
        for rule in term.get("matchExpressions") or []:
            if rule.get("operator") == "In" and len(rule.get("values") or []) == 1:
                pairs.add((str(rule["key"]), str(rule["values"][0])))
            else:
                whole = False
    return frozenset(pairs), whole


def _own_group(spec: Item, metadata: Item) -> tuple[str, bool]:
    """The group of a pod that shares a node with no pod of its own labels, and whether that says all."""
    affinity = spec.get("affinity") or {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    whole = not (affinity.get("podAffinity") or {}).get(required)
    group = ""
    for term in (affinity.get("podAntiAffinity") or {}).get(required) or []:
        labels = (term.get("labelSelector") or {}).get("matchLabels") or {}
        own = metadata.get("labels") or {}
        plain = set(term) <= {"labelSelector", "topologyKey"} and set(term.get("labelSelector") or {}) == {
            "matchLabels"
        }
        if not group and plain and labels and term.get("topologyKey") == HOSTNAME and labels.items() <= own.items():
            pairs = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
            group = f"{metadata.get('namespace', 'default')}/{pairs}"
        else:
            whole = False
    return group, whole


def _bound(pod: Item) -> bool:
    return bool(pod.get("spec", {}).get("nodeName"))


def _phase(pod: Item) -> str:
    return str(pod.get("status", {}).get("phase", ""))


def _name(item: Item, path: Path) -> str:
    name = (item.get("metadata") or {}).get("name")
    if not name:
        raise InputError(f"a {item.get('kind', 'thing')} has no name", path, None, "metadata.name")
    return str(name)
