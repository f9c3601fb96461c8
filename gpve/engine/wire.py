"""Operations and outcomes as JSON lines: what an engine and a node say to each other over a socket."""

import json
from typing import Any

from gpve.tasks.advance import Operation
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown


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
    match outcome:
        case Done(result):
            return _line({"number": number, "done": result})
        case Refused(reason, again, reached):
            return _line({"number": number, "refused": reason, "again": again, "reached": reached})
        case Unknown(reason):
            return _line({"number": number, "unknown": reason})


def outcome_from_line(line: bytes) -> tuple[int, Outcome]:
    """The answer of a line, and the number of its command."""
    said = json.loads(line)
    number = said["number"]
    if "done" in said:
        return number, Done(said["done"])
    if "refused" in said:
        return number, Refused(said["refused"], said["again"], said["reached"])
    return number, Unknown(said["unknown"])


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
