"""How a command ended, as far as is known. There are three outcomes and no fourth (guarantees.md, promise 5)."""

from typing import Any, NamedTuple


class Done(NamedTuple):
    """The effect is there, and was made once."""

    result: dict[str, Any] = {}  # noqa: RUF012  # results are never changed in place


class Refused(NamedTuple):
    """Known to have changed nothing. ``again``: trying later may help. ``reached``: the node saw the command."""

    reason: str
    again: bool = False
    reached: bool = True


class Unknown(NamedTuple):
    """It may have happened, in part or whole, or may happen yet."""

    reason: str


Outcome = Done | Refused | Unknown


def to_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON."""
    match outcome:
        case Done(result):
            return {"done": result}
        case Refused(reason, again, reached):
            return {"refused": reason, "again": again, "reached": reached}
        case Unknown(reason):
            return {"unknown": reason}


def from_json(said: dict[str, Any]) -> Outcome:
    """The outcome that `to_json` wrote."""
    if "done" in said:
        return Done(said["done"])
    if "refused" in said:
        return Refused(said["refused"], said["again"], said["reached"])
    return Unknown(said["unknown"])
