"""The phases of guests, and which operation leads from which to which: the one table of legal moves.

A phase is *steady* or *transitional*. A transitional phase (creating, migrating, ...) always goes with a live task,
which the guest's row names; when the task ends, the guest is in a steady phase again, or gone.
"""

from dataclasses import dataclass

from gpve.model.kinds import KINDS

SAME = "="
"""As a phase after a move: the phase before it."""
GONE = ""
"""As a phase: there is no such guest."""


@dataclass(frozen=True)
class Move:
    """An operation on a guest: from where it may begin, what the guest is meanwhile, what it is when it is done."""

    before: frozenset[str]
    during: str
    after: str

    def done(self, before: str) -> str:
        """The phase when the operation is done."""
        return before if self.after == SAME else self.after


def _moves(*rows: tuple[str, str, str, str]) -> dict[str, Move]:
    return {name: Move(frozenset(before.split("|")), during, after) for name, before, during, after in rows}


MOVES: dict[str, dict[str, Move]] = {
    "vm": _moves(
        ("create", GONE, "creating", "stopped|running"),
        ("start", "stopped", "starting", "running"),
        ("shutdown", "running", "stopping", "stopped"),
        ("stop", "running|paused", "stopping", "stopped"),
        ("reboot", "running", "rebooting", "running"),
        ("pause", "running", "pausing", "paused"),
        ("resume", "paused", "resuming", "running"),
        ("migrate", "running|stopped", "migrating", SAME),
        ("snapshot", "running|stopped", "snapshotting", SAME),
        ("rollback", "stopped", "rolling-back", SAME),
        ("resize", "running|stopped", "resizing", SAME),
        ("clone", "running|stopped", "cloning", SAME),
        ("volume-attach", "running|stopped", "attaching", SAME),
        ("volume-detach", "running|stopped", "detaching", SAME),
        ("network-attach", "running|stopped", "plugging", SAME),
        ("network-detach", "running|stopped", "unplugging", SAME),
        ("recover", "running|paused", "recovering", "running"),
        ("delete", "stopped", "deleting", GONE),
    ),
    "vcluster": _moves(
        ("create", GONE, "creating", "stopped|running"),
        ("start", "stopped", "starting", "running"),
        ("stop", "running|paused|sleeping", "stopping", "stopped"),
        ("pause", "running", "pausing", "paused"),
        ("resume", "paused", "resuming", "running"),
        ("sleep", "running", "falling-asleep", "sleeping"),
        ("wake", "sleeping", "waking", "running"),
        ("upgrade", "running|stopped", "upgrading", SAME),
        ("resize", "running|stopped", "resizing", SAME),
        ("snapshot", "running|stopped", "snapshotting", SAME),
        ("restore", "stopped", "restoring", SAME),
        ("clone", "running|stopped", "cloning", SAME),
        ("network-attach", "running|stopped", "plugging", SAME),
        ("network-detach", "running|stopped", "unplugging", SAME),
        ("recover", "running|paused", "recovering", "running"),
        ("delete", "stopped", "deleting", GONE),
    ),
    "agent": _moves(
        ("create", GONE, "creating", "stopped|running"),
        ("start", "stopped", "starting", "running"),
        ("stop", "running|paused", "stopping", "stopped"),
        ("restart", "running|paused", "restarting", "running"),
        ("pause", "running", "pausing", "paused"),
        ("resume", "paused", "resuming", "running"),
        ("checkpoint", "running|paused|stopped", "checkpointing", SAME),
        ("restore", "stopped", "restoring", SAME),
        ("network-attach", "running|stopped", "plugging", SAME),
        ("network-detach", "running|stopped", "unplugging", SAME),
        ("recover", "running|paused", "recovering", "running"),
        ("delete", "stopped", "deleting", GONE),
    ),
}
"""By kind and operation."""

STEADY: dict[str, frozenset[str]] = {
    kind: frozenset().union(*(move.before for move in MOVES[kind].values())) - {GONE} for kind in KINDS
}
"""By kind: the phases in which no task works on a guest."""


TRANSITIONAL: dict[str, frozenset[str]] = {
    kind: frozenset(move.during for move in MOVES[kind].values()) for kind in KINDS
}
"""By kind: the phases in which a task works on a guest."""

INTERNAL = frozenset(("create", "recover", "volume-attach", "volume-detach", "network-attach", "network-detach"))
"""Operations that nobody can ask for of a guest that is there: GPVE's own, and those that the API does not have."""


def allowed(kind: str, phase: str) -> tuple[str, ...]:
    """The operations that one may ask for in a phase, in the order of the table."""
    return tuple(name for name, move in MOVES[kind].items() if phase in move.before and name not in INTERNAL)
