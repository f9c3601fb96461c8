"""Flows for tests alone: as small as the promise in question allows."""

from typing import Any

from pydantic import Field

from gpve.tasks.flow import Body, Command, Context, Flow, Flows, Lock, OnNode, Opened, Retry, Step
from gpve.tasks.ledger import Tx


class Hold(Body):
    """Locks to take, and the node to work on."""

    node: str = "a"
    alone: tuple[str, ...] = Field((), strict=False)
    together: tuple[str, ...] = Field((), strict=False)


def _open(tx: Tx, wish: Any, task: int) -> Opened:
    return Opened(None)


def _close(tx: Tx, seen: Context, done: bool) -> None:
    return None


def _locks(target: Any, body: Hold) -> list[Lock]:
    return [*(Lock(name) for name in body.alone), *(Lock(name, shared=True) for name in body.together)]


def make(name: str) -> Any:
    """An action that makes a volume of its own."""

    def action(seen: Context) -> Command:
        volume = {"id": f"{seen.task}-{name}"}
        return OnNode(seen.body.node, "volume.create", {"guest": 0, "volumes": [volume]}, f"task/{seen.task}")

    return action


def drop(name: str) -> Any:
    """An action that removes it."""

    def action(seen: Context) -> Command:
        volume = {"id": f"{seen.task}-{name}"}
        return OnNode(seen.body.node, "volume.delete", {"guest": 0, "volumes": [volume]}, f"task/{seen.task}")

    return action


def step(name: str, **more: Any) -> Step:
    """A step that makes a volume, and removes it."""
    return Step(name, make(name), undo=drop(name), **more)


def flow(name: str, *steps: Step, **more: Any) -> Flow:
    """A flow of such steps."""
    return Flow(name, 1, Hold, steps, open=_open, locks=_locks, close=_close, **more)


hold = flow("hold", step("one"))
five = flow("five", *(step(f"s{number}") for number in range(5)))
branches = flow(
    "branches",
    step("root"),
    step("left", needs=("root",), undo_deadline_s=100.0, retry=Retry(longest_s=10.0)),
    step("right", needs=("root",)),
    step("last", needs=("left", "right")),
)
hasty = flow("hasty", step("quick", deadline_s=30.0, attempt_s=5.0), step("after"), deadline_s=300.0)

SMALL = Flows([hold, five, branches, hasty])
