"""What is forgotten, and when: closed tasks with their logs. Whoever watches from before is told.

200 creates a second are 170 million rows a day: a store that keeps everything dies of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpve.tasks.ledger import Key, Tx
from gpve.tasks.state import CLOSED


@dataclass
class Compacted(Exception):
    """A watcher wants to resume from a revision before what is still kept: it has to list anew."""

    wanted: int
    kept_after: int

    def __str__(self) -> str:
        return f"revision {self.wanted} is compacted; list anew and watch from there (kept: after {self.kept_after})"


def forget_tasks(tx: Tx, tasks: Sequence[int]) -> int:
    """Remove closed tasks, their logs and their idempotency keys; the newest revision that went with them."""
    newest = 0
    for task in tasks:
        row = tx.get("task", task)
        if row is None or row["status"] not in CLOSED:
            continue
        newest = max(newest, row["revision"])
        for event in tx.where("event", task=task):
            newest = max(newest, event["revision"])
            tx.delete("event", task, event["seq"])
        for key in tx.where("idempotency", task=task):
            tx.delete("idempotency", key["project"], key["key"])
        tx.delete("task", task)
    _compact(tx, newest)
    return newest


def forget_changes(tx: Tx, keys: Sequence[Key]) -> None:
    """Remove rows of the change log that nobody can ask for any more: those up to what is compacted."""
    for key in keys:
        tx.delete("change", *key)


def _compact(tx: Tx, revision: int) -> None:
    row = tx.get("counter", "compacted")
    assert row is not None
    if revision > row["value"]:
        tx.put("counter", {"name": "compacted", "value": revision})
