"""Clusters made of equal nodes, written as a short text: ``8x(96c,384G,8xV100)+100x(64c,256G)``."""

import re

from gpve.model import InputError, Nodes
from gpve_sim.cluster_size import identical_nodes, joined_nodes

EXAMPLE = "8x(96c,384G,8xV100)+100x(64c,256G)"
_PART = re.compile(
    r"(?P<count>\d+)x\((?P<cpu>\d+(?:\.\d+)?)c,(?P<memory>\d+(?:\.\d+)?)(?P<unit>[MGT])(?:,(?P<gpus>\d+)x(?P<model>[^(),+|]+))?\)"
)
_MIB = {"M": 1, "G": 1024, "T": 1024 * 1024}
MOST = 10_000_000
"""More nodes than anybody means."""


def parse_inventory(text: str) -> Nodes:
    """Nodes of ``COUNTx(CPUc,MEMORYG[,GPUSxMODEL])``, several joined by ``+``; memory in M, G or T (binary).

    Names are ``<part>-00000``: ``a-00000`` and on for the first part. Raises `InputError`.
    """
    parts = []
    total = 0
    for position, part in enumerate(text.replace(" ", "").split("+")):
        found = _PART.fullmatch(part)
        if not found:
            raise InputError(f"{part!r} is not COUNTx(CPUc,MEMORYG[,GPUSxMODEL]); an example: {EXAMPLE}")
        count, gpus = int(found["count"]), int(found["gpus"] or 0)
        total += count
        if count == 0 or total > MOST:
            raise InputError(f"{part!r}: between 1 and {MOST:,} nodes can be made")
        cpu = round(float(found["cpu"]) * 1000)
        memory = round(float(found["memory"]) * _MIB[found["unit"]])
        parts.append(identical_nodes(count, cpu, memory, gpus, found["model"] or "", prefix=_letters(position)))
    return joined_nodes(parts)


def _letters(position: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    text = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        text = chr(ord("a") + rest) + text
    return text
