"""The three kinds of guests: equal citizens under one scheduler and one lifecycle."""

from collections.abc import Iterable
from enum import IntEnum


class Kind(IntEnum):
    """What a guest is. The number is its code in columns; the lower-case name is its text in files."""

    VM = 0
    VCLUSTER = 1
    AGENT = 2


KINDS: tuple[str, ...] = tuple(kind.name.lower() for kind in Kind)
"""Names as they stand in files, by code: ``KINDS[Kind.VM] == "vm"``."""


def taint_without(kind: str) -> str:
    """The taint of a node that runs no guests of this kind: ``gpve.no-vm``. Guests of other kinds tolerate it."""
    return f"gpve.no-{kind}"


def taint_simulated(kind: str) -> str:
    """The taint of a node that simulates guests of this kind: ``gpve.simulated-vm``."""
    return f"gpve.simulated-{kind}"


def real(kind: str, taints: Iterable[frozenset[str]]) -> bool:
    """Whether one of the nodes with these taints runs guests of this kind for real."""
    neither = {taint_without(kind), taint_simulated(kind)}
    return any(neither.isdisjoint(each) for each in taints)


def tolerated(kind: str, really: bool) -> frozenset[str]:
    """Taints that guests of this kind tolerate: what is said of other kinds; and being simulated, unless there are
    nodes that run the kind for real (``really``). What began there must not end as a simulation."""
    others = {taint(other) for other in KINDS if other != kind for taint in (taint_without, taint_simulated)}
    return frozenset(others if really else others | {taint_simulated(kind)})
