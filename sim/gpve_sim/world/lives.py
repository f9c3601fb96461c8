"""The life of a guest of a trace: what is due for it, and when an agent falls idle and goes on."""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from gpve.model.kinds import Kind
from gpve_sim.trace import Trace

LIVES = {"vm": ("vm_stop", "vm_delete"), "vcluster": ("vcluster_stop", "vcluster_delete")}
LIVES["agent"] = ("agent_stop", "agent_delete")
"""By kind: the flows that end a guest."""


@dataclass
class Life:
    """A guest, and the flows that are due for it, one after another."""

    row: int
    guest: int = -1
    due: deque[str] = field(default_factory=deque)
    busy: bool = False
    over: bool = False
    """It departs: what was due before does not matter any more."""
    node: str | None = None
    tries: int = 0
    gave_up: bool = False
    """It waited for a place until its deadline."""
    crashes: int = 0


def phases_of(trace: Trace) -> dict[int, list[tuple[float, str]]]:
    """By row of an agent: when it falls idle (it is paused) and when it goes on (resumed), in order."""
    usage = trace.usage
    if usage is None or usage.phase is None or "idle" not in usage.phase_names:
        return {}
    idle = usage.phase_names.index("idle")
    agents = trace.guests.kind == Kind.AGENT
    was_idle: dict[int, bool] = {}
    changes: dict[int, list[tuple[float, str]]] = defaultdict(list)
    # Rows are sorted by their start.
    for g, start, phase in zip(usage.guest.tolist(), usage.start_s.tolist(), usage.phase.tolist(), strict=True):
        if agents[g] and was_idle.get(g, False) != (phase == idle):
            was_idle[g] = phase == idle
            changes[g].append((start, "agent_pause" if phase == idle else "agent_resume"))
    return dict(changes)
