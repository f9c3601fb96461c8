"""What guests claim of nodes, in the rows of both."""

from collections.abc import Mapping
from typing import Any

from gpve.tasks.events import decode, encode
from gpve.tasks.ledger import Row, Tx


def charged(node: Row, claim_row: Row, sign: int) -> Row:
    """The node's row with a claim added (+1) or taken away (-1), one version later."""
    gpus = decode(node["used_gpu_milli"])
    for device, milli in decode(claim_row["devices"]).items():
        gpus[int(device)] += sign * milli
    return {
        **node,
        "used_cpu_milli": node["used_cpu_milli"] + sign * claim_row["cpu_milli"],
        "used_memory_mib": node["used_memory_mib"] + sign * claim_row["memory_mib"],
        "used_gpu_milli": encode(gpus),
        "version": node["version"] + 1,
    }


def overdrawn(node: Row) -> bool:
    """Whether more is claimed of a node than it has."""
    gpus = zip(decode(node["used_gpu_milli"]), decode(node["gpus"]), strict=True)
    over = node["used_cpu_milli"] > node["cpu_milli"] or node["used_memory_mib"] > node["memory_mib"]
    return over or any(used > has for used, has in gpus)


def release(tx: Tx, task: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give back the claim of ``guest`` on ``node``."""
    row = tx.get("claim", arguments["guest"], arguments["node"])
    if row is None:
        return {}
    tx.delete("claim", row["guest"], row["node"])
    node = tx.get("node", row["node"])
    if node is not None:
        tx.put("node", charged(node, row, -1))
    return {}
