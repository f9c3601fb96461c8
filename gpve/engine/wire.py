"""Operations and outcomes as JSON lines: what an engine and a node say to each other over a socket."""

import json
from typing import Any

from gpve.tasks.advance import Operation
from gpve.tasks.outcome import Outcome, from_json, to_json


def operation_to_line(number: int, operation: Operation) -> bytes:
    """A command; ``number`` comes back with its answer."""
    return _line(
        {
            "number": number,
            "task": operation.task,
            "step": operation.step,
            "direction": operation.direction,
            "node": operation.node,
            "verb": operation.verb,
            "arguments": dict(operation.arguments),
            "resource": operation.resource,
            "epoch": operation.epoch,
            "tombstone": operation.tombstone,
        }
    )


def operation_from_line(line: bytes) -> tuple[int, Operation]:
    """The command of a line, and its number."""
    said = json.loads(line)
    number = said.pop("number")
    return number, Operation(**said)


def outcome_to_line(number: int, outcome: Outcome) -> bytes:
    """An answer."""
    return _line({"number": number, **to_json(outcome)})


def outcome_from_line(line: bytes) -> tuple[int, Outcome]:
    """The answer of a line, and the number of its command."""
    said = json.loads(line)
    return said["number"], from_json(said)


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
