"""The logs of GPVE's long-running programs: a line of JSON for each event, or plain text on a terminal."""

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime

KEPT = ("request", "actor", "task", "flow", "status", "target", "node", "server", "ms", "url")
"""What a line may carry besides its text."""

# gRPC's core writes lines of its own, which are no JSON, past this log; it looks here when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


class Lines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
        }
        told |= {name: value for name in KEPT if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class Plain(logging.Formatter):
    """Text for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = {name: value for name in KEPT if (value := getattr(record, name, None)) is not None}
        more = " ".join(f"{name}={value}" for name, value in told.items())
        return f"{super().format(record)}{'  ' + more if more else ''}"


def begin(level: str = "info") -> None:
    """Log to standard error: text if that is a terminal, JSON otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain() if sys.stderr.isatty() else Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("alembic", "asyncio", "httpx", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
