"""Migrations at lifecycle fidelity: how long each took, and for how long its guest stood still."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpve.tasks.events import Kind
from gpve.tasks.ledger import Row


@dataclass(frozen=True)
class Migration:
    """One migration that was done. Seconds."""

    row: int
    """Of the guest, in the trace."""
    target: str
    began_s: float
    transfer_s: float
    """From the beginning of the copying to its end: the guest runs, and shares the link."""
    still_s: float
    """From the end of the copying until it runs at the target. A guest that did not run does not notice."""


def migration_of(row: int, log: Sequence[Row]) -> Migration:
    """Read off the log of a ``vm_migrate`` that is done."""
    at = {(event["step"], event["kind"]): event for event in log}
    began = at["transfer", Kind.STARTED]["at"]
    copied, runs = at["transfer", Kind.DONE]["at"], at["switch", Kind.DONE]["at"]
    target = json.loads(at["place", Kind.DONE]["data"])["result"]["node"]
    return Migration(row, target, began, copied - began, runs - copied)


def summary(migrations: Sequence[Migration]) -> dict[str, Any]:
    """Count, and p50 and p99 of both times."""
    told: dict[str, Any] = {"count": len(migrations)}
    for name in ("transfer_s", "still_s") if migrations else ():
        times = [getattr(one, name) for one in migrations]
        told[name] = {f"p{q}": round(float(np.percentile(times, q)), 6) for q in (50, 99)}
    return told
