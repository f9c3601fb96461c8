"""How a command ended, as far as is known. There are three outcomes and no fourth (guarantees.md, promise 5)."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Done:
    """The effect is there, and was made once."""

    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """Known to have changed nothing. ``again``: trying later may help. ``reached``: the node saw the command."""

    reason: str
    again: bool = False
    reached: bool = True


@dataclass(frozen=True)
class Unknown:
    """It may have happened, in part or whole, or may happen yet."""

    reason: str


Outcome = Done | Refused | Unknown
