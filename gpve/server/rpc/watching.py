"""Changes as messages."""

import json
from collections.abc import AsyncIterator
from typing import Any

from gpve.server import watch
from gpve.v1 import resources_pb2 as pb


async def watched(pulse: watch.Pulse, request: Any, tables: list[str]) -> AsyncIterator[pb.Change]:
    """Changes of these tables from the revision asked for, for ever."""
    async for change, _ in watch.changes(pulse, request.revision or None, tables):
        if change is not None:
            yield pb.Change(
                revision=change["revision"],
                table=change["table"],
                key=json.dumps(change["key"]),
                data_json="" if change["row"] is None else json.dumps(change["row"]),
            )
