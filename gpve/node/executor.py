"""What makes the effects of operations on a node, as a Protocol; and how an effect may fail."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpve.tasks.advance import Operation


class Cannot(Exception):
    """The state of the node does not allow it; nothing was changed. ``again``: later it may."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


class CallError(Exception):
    """A call that is no operation cannot be answered. ``kind``: not-found, precondition, invalid, unavailable."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Spent:
    """``cpu_ns``: ever, nanoseconds on CPUs; ``memory_bytes``: now."""

    cpu_ns: int
    memory_bytes: int


Frame = tuple[int, bytes, int | None]
"""(stream: 1 stdout, 2 stderr, 3 a note; data; exit code, minus a signal, or None)."""


class Executor(Protocol):
    """One kind of guest on one node. Verbs bring about a state, and may be repeated."""

    atomic: bool
    """Whether an effect is on disk with its record, or not at all: then nothing has to be on disk before it."""

    async def make(self, operation: Operation, leased: bool) -> dict[str, Any]:
        """Make an effect; its result. Without a lease (``leased``) no guest with ha may run: it runs when there is one.

        Raises `Cannot`. Any other exception: nobody knows what was changed.
        """

    async def runs(self, guests: Sequence[int]) -> list[int]:
        """Those of the guests that run or are paused here, or will as soon as the node has its lease."""

    async def usage(self) -> dict[int, Spent]:
        """What the guests that run for real have used of CPU, and use of memory, by guest."""

    async def clean(self, guests: Sequence[int]) -> None:
        """Nothing is left of these guests."""

    async def lease(self, until: float) -> bool:
        """Guests with ha may run until then (CLOCK_BOOTTIME, s), with a node agent or without; whether it is known."""

    async def end_ha(self) -> None:
        """The lease is over: end all guests with ha that do not end by themselves."""

    async def restart_ha(self) -> None:
        """What was ended for want of a lease runs again."""

    def call(self, asked: Mapping[str, Any]) -> AsyncIterator[Frame]:
        """Answer a call that alters nothing that the store knows of. Raises `CallError`, also from the iterator."""
