"""The three kinds of guests: equal citizens under one scheduler and one lifecycle."""

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
