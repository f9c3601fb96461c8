"""The rows of the store, by table: columns and primary keys. The one place that names them; stores derive their schema.

Types: int, float, str, bool; ``json`` is a str with sorted keys; a trailing ``?`` admits None.
Amounts are cpu_milli, memory_mib, gpu_milli; times are seconds since 1970 on the store's clock.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Columns by name (name: type), the primary key, the indexes, and whether watchers hear of changes to its rows."""

    key: tuple[str, ...]
    columns: dict[str, str]
    indexes: tuple[tuple[str, ...], ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    watched: bool = field(default=False)


TABLES: dict[str, Table] = {
    "counter": Table(("name",), {"name": "str", "value": "int"}),
    "engine": Table(
        ("incarnation",),
        {"incarnation": "str", "name": "str", "started": "float", "lease_until": "float"},
    ),
    "task": Table(
        ("id",),
        {
            "id": "int",
            "project": "str",
            "actor": "str",
            "flow": "str",
            "version": "int",
            "table_hash": "str",
            "status": "str",
            "target": "str?",
            "body": "json",
            "seq": "int",
            "submitted_at": "float",
            "closed_at": "float?",
            "owner": "str?",
            "epoch": "int",
            "cancel": "str?",
            "committed": "bool",
            "step": "str?",
            "progress": "float",
            "reason": "text?",
            "poison": "text?",
            "revision": "int",
        },
        indexes=(("status", "closed_at"), ("owner",), ("target",)),
    ),
    "event": Table(
        ("task", "seq"),
        {
            "task": "int",
            "seq": "int",
            "kind": "str",
            "step": "str",
            "at": "float",
            "epoch": "int",
            "data": "json",
            "revision": "int",
        },
        indexes=(("revision",),),
    ),
    "idempotency": Table(
        ("project", "key"),
        {"project": "str", "key": "str", "task": "int", "digest": "str"},
        indexes=(("task",),),
    ),
    "lock": Table(
        ("resource", "task"),
        {"resource": "str", "task": "int", "shared": "bool"},
        indexes=(("task",), ("resource", "shared")),
    ),
    "outbox": Table(
        ("task", "step", "direction"),
        {
            "task": "int",
            "step": "str",
            "direction": "str",
            "node": "str",
            "resource": "str",
            "epoch": "int",
            "verb": "str",
            "arguments": "json",
            "at": "float",
            "relay": "bool",
            "outcome": "json?",
        },
        indexes=(("node",),),
    ),
    "alarm": Table(("task",), {"task": "int", "at": "float", "text": "text"}, watched=True),
    "guest": Table(
        ("id",),
        {
            "id": "int",
            "kind": "str",
            "name": "str",
            "project": "str",
            "phase": "str",
            "phase_before": "str?",
            "task": "int?",
            "node": "str?",
            "spec": "json",
            "revision": "int",
        },
        indexes=(("node",), ("task",)),
        unique=(("project", "name"),),
        watched=True,
    ),
    "node": Table(
        ("name",),
        {
            "name": "str",
            "open": "bool",
            "alive": "bool",
            "cpu_milli": "int",
            "memory_mib": "int",
            "gpus": "json",
            "gpu_model": "str",
            "labels": "json",
            "taints": "json",
            "used_cpu_milli": "int",
            "used_memory_mib": "int",
            "used_gpu_milli": "json",
            "version": "int",
            "revision": "int",
        },
        indexes=(("revision",),),
        watched=True,
    ),
    "session": Table(
        ("node",),
        {"node": "str", "boot": "str", "engine": "str", "beat": "int", "dead_at": "int?"},
    ),
    "debris": Table(("node", "guest"), {"node": "str", "guest": "int"}),
    "claim": Table(
        ("guest", "node"),
        {
            "guest": "int",
            "node": "str",
            "role": "str",
            "task": "int?",
            "cpu_milli": "int",
            "memory_mib": "int",
            "gpu_milli": "int",
            "devices": "json",
        },
        indexes=(("node",),),
    ),
    "volume": Table(
        ("id",),
        {
            "id": "str",
            "guest": "int?",
            "pool": "str",
            "node": "str?",
            "size_gib": "int",
            "task": "int?",
            "revision": "int",
        },
        indexes=(("guest",),),
        watched=True,
    ),
    "port": Table(
        ("guest", "network"),
        {"guest": "int", "network": "str", "mac": "str"},
        indexes=(("network",),),
    ),
    "network": Table(
        ("name",),
        {"name": "str", "kind": "str", "task": "int?", "revision": "int"},
        watched=True,
    ),
    "quota": Table(
        ("project",),
        {
            "project": "str",
            "guests": "int",
            "cpu_milli": "int",
            "memory_mib": "int",
            "guests_limit": "int?",
            "cpu_milli_limit": "int?",
            "memory_mib_limit": "int?",
        },
    ),
    "placement": Table(("project",), {"project": "str", "policy": "str"}),
    "server": Table(
        ("name",),
        {"name": "str", "api": "str", "peers": "str", "version": "str", "started": "float"},
    ),
    "authority": Table(("name",), {"name": "str", "certificate": "text", "private_key": "text"}),
    "token": Table(
        ("digest",),
        {"digest": "str", "name": "str", "purpose": "str", "created_at": "float", "expires_at": "float?"},
    ),
    "fact": Table(("node",), {"node": "str", "certificates": "json", "facts": "json"}),
    "decision": Table(
        ("engine", "number"),
        {
            "engine": "str",
            "number": "int",
            "policy": "str",
            "drawn": "int",
            "seen": "int",
            "answers": "json",
            "revision": "int",
        },
        indexes=(("revision",),),
    ),
    "change": Table(
        ("revision", "position"),
        {"revision": "int", "position": "int", "table_name": "str", "row_key": "str", "data": "json?"},
    ),
}
"""Every table. A session counts the beats of a node (`gpve.tasks.ha`). Debris is what a dead node still has of guests
that are elsewhere by now. A placement is the policy of a project; that of the empty one is the cluster's. A token is
kept as its SHA-256, in hexadecimal; a node's fact says which certificates are its own. A decision is one call of a
scheduler: which revision of the nodes it saw, and what it answered to which question, in order, so that it can be made
again. ``task`` of a guest, volume, network or claim names the live task that works on it, or None.
"""

COUNTERS = {"task": 1, "guest": 100, "epoch": 1, "revision": 1, "compacted": 1}
"""Counters and their first numbers. A guest's id starts at 100, as a VMID does elsewhere.

``compacted``: the newest revision of which something is forgotten.
"""
