"""What the nodes say that is on them, asked over their sockets."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpve.engine.wire import operation_to_line, outcome_from_line
from gpve.tasks.advance import Operation
from gpve.tasks.outcome import Done

TIMEOUT_S = 10.0


def inventory(sockets: Mapping[str, Path]) -> dict[str, dict[str, dict[Any, Any]]]:
    """By node and kind of thing; nodes that do not answer are left out."""
    found = {}
    for name, path in sockets.items():
        try:
            things = _ask(name, path)
        except OSError:
            continue
        things["ports"] = {(guest, network): mac for guest, network, mac in things["ports"]}
        for kind in things:
            if kind not in ("volumes", "ports"):
                things[kind] = {_key(key): value for key, value in things[kind].items()}
        found[name] = things
    return found


def _key(key: str) -> Any:
    return int(key) if key.isdigit() else key


def _ask(name: str, path: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(operation_to_line(0, Operation(0, "", "do", name, "inventory", {}, "", 0)))
        with connection.makefile("rb") as lines:
            _, outcome = outcome_from_line(lines.readline())
    if not isinstance(outcome, Done):
        raise OSError(f"node {name}: {outcome}")
    return dict(outcome.result)
