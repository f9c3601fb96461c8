"""A cluster written down: what the simulator needs to decide again what its schedulers decided, and to audit it.

Lines of JSON: first what it is, then {"table": ..., "row": ...}, all as it was at one moment, and last how many rows
there are: a file that was cut off is known by it. Tokens, keys and certificates are not in it; the environments of
agents are.
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
    head = {"gpve_dump": 2, "version": __version__, "revision": counters["revision"]}
    yield orjson.dumps(head | {"compacted": counters["compacted"]}) + b"\n"
    count = 0
    try:
        while (batch := await control.access.read(next, batches, None)) is not None:
            table, rows = batch
            # Of the change log only what happened to nodes: that is what decisions depend on.
            kept = [row for row in rows if table != "change" or row["table_name"] == "node"]
            yield b"".join(orjson.dumps({"table": table, "row": row}) + b"\n" for row in kept)
            count += len(kept)
        yield orjson.dumps({"rows": count}) + b"\n"
    finally:
        # Whoever stops reading in the middle gives the connection back.
        await control.access.read(batches.close)
