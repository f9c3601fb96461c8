"""Whether the nodes have what the store says of guests at rest, state by state and value by value.

`gpve.tasks.audit` asks what is there. A simulated world can ask for more, for it knows what may have happened:
after a loss of power machines are off and sandboxes gone, and nothing in GPVE starts them again yet.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gpve.tasks.audit import Inventory, Reader
from gpve.tasks.ledger import Row

OF = {"vm": "machines", "vcluster": "planes", "agent": "sandboxes"}
"""By kind of guest: what shows whether it runs."""


def at_rest(read: Reader, nodes: Inventory, power_lost: bool) -> list[str]:
    """What differs, of guests that no task works on."""
    ports: dict[int, dict[str, str]] = {}
    for row in read("port"):
        ports.setdefault(row["guest"], {})[row["network"]] = row["mac"]
    found: list[str] = []
    for guest in read("guest"):
        if guest["task"] is None and guest["node"] in nodes:
            found += _of_one(guest, nodes[guest["node"]], ports.get(guest["id"], {}), power_lost)
    return found


def _of_one(guest: Row, node: Mapping[str, Mapping[Any, Any]], ports: dict[str, str], lost: bool) -> Iterator[str]:
    number, kind, phase = guest["id"], guest["kind"], guest["phase"]
    spec = json.loads(guest["spec"])
    name = f"{kind} {number} is {phase} on {guest['node']}, and"
    off = None if kind == "agent" else "defined"
    state = node[OF[kind]].get(number)
    if state != (off if phase == "stopped" else phase) and not (lost and state == off):
        yield f"{name} the node has it {state}"
    if kind != "agent" and node["sizes"].get(number) != f"{spec['cpu_milli']}/{spec['memory_mib']}":
        yield f"{name} the node gives it {node['sizes'].get(number)}, its spec {spec['cpu_milli']}/{spec['memory_mib']}"
    if kind == "vcluster" and node["versions"].get(number) != spec["version"]:
        yield f"{name} its control plane is of {node['versions'].get(number)}, its spec says {spec['version']}"
    plugged = {network: mac for (of, network), mac in node["ports"].items() if of == number}
    if plugged != (ports if kind != "agent" or phase != "stopped" else {}):
        yield f"{name} the node has its ports {sorted(plugged)}, the store {sorted(ports)}"
    kept = sorted(key.partition("/")[2] for key in node["snapshots"] if key.startswith(f"{number}/"))
    if kept != sorted(spec.get("snapshots", [])):
        yield f"{name} the node has its snapshots {kept}, its spec {sorted(spec.get('snapshots', []))}"
