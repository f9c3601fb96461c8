"""A cluster written down: what the simulator needs to decide again what its schedulers decided, and to audit it.

Lines of JSON: first what it is, then {"table": ..., "row": ...}, all as it was at one moment. Tokens, keys and
certificates are not in it.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import orjson

from gpve import __version__

if TYPE_CHECKING:
    from gpve.server.control import Control

AT_ONCE = 1000
TABLES = (
    "node",
    "guest",
    "claim",
    "volume",
    "port",
    "network",
    "quota",
    "placement",
    "lock",
    "debris",
    "alarm",
    "session",
)
LONG = ("task", "event", "decision", "change")


async def dump(control: "Control") -> AsyncIterator[bytes]:
    """The lines."""
    batches = control.store.snapshot(("counter", *TABLES, *LONG), AT_ONCE)
    _, first = await control.access.read(next, batches)
    counters = {row["name"]: row["value"] for row in first}
    head = {"gpve_dump": 1, "version": __version__, "revision": counters["revision"]}
    yield orjson.dumps(head | {"compacted": counters["compacted"]}) + b"\n"
    try:
        while (batch := await control.access.read(next, batches, None)) is not None:
            table, rows = batch
            # Of the change log only what happened to nodes: that is what decisions depend on.
            kept = [row for row in rows if table != "change" or row["table_name"] == "node"]
            yield b"".join(orjson.dumps({"table": table, "row": row}) + b"\n" for row in kept)
    finally:
        # Whoever stops reading in the middle gives the connection back.
        await control.access.read(batches.close)
