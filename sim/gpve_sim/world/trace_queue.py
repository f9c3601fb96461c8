"""Who of a trace waits for a place, and whose turn it is: the order of `gpve_sim.kernel.queue`, one guest at a time.

Guests stand by priority, then by arrival. Who arrives is decided for at once, unless the mode is ``wait`` and somebody
stands before it. Who stands in the queue is asked for in rounds, and a round begins when all that frees something at a
moment is over. In a round of ``wait`` only the first of the queue has its turn; in one of ``backfill`` everybody has,
but of equal guests nobody after the first that finds no place.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from gpve.scheduler.requests import Requests
from gpve.tasks.records import NoFit
from gpve_sim.trace import Trace
from gpve_sim.workload import queues_of

AHEAD = "left to those before it in the queue"


@dataclass
class Waiting:
    """A guest in the queue: the task that asks for it, and what it was told last."""

    task: int
    said: NoFit


class TraceQueue:
    """The queue of the guests of a trace, by their rows.

    Whatever the ``mode``, a guest that is recovered or started again may have to wait: with ``drop``, as in
    ``backfill``.
    """

    def __init__(self, trace: Trace, requests: Requests, mode: str) -> None:
        guests = trace.guests
        self._strict = mode == "wait"
        of_guest, priority = queues_of(guests, requests)
        rank = np.empty(len(guests), dtype=np.int64)
        rank[np.argsort(guests.arrival_s, kind="stable")] = np.arange(len(guests))
        self._alike: list[int] = of_guest.tolist()
        self._key = list(zip((-priority.astype(np.int64)[of_guest]).tolist(), rank.tolist(), strict=True))
        self._momentary: list[bool] = (guests.departure_s == guests.arrival_s).tolist()
        self._order: list[tuple[int, int]] = []
        self._failed: set[int] = set()
        self._held = False
        self.waiting: dict[int, Waiting] = {}
        self.freed = False
        """Whether something may fit now that did not when the queue was asked for last."""

    def key(self, g: int) -> tuple[int, int]:
        """Where a guest stands among others: the smaller comes first."""
        return self._key[g]

    def is_momentary(self, g: int) -> bool:
        """Whether a guest departs in the very moment in which it is placed."""
        return self._momentary[g]

    @property
    def due(self) -> bool:
        """Whether a round is to begin, or to go on, once the moment is over."""
        return self.freed or self._held

    def begin_round(self) -> bool:
        """Begin a round, or go on with one that was held up; whether there is anybody to be asked for."""
        if self.freed:
            self._failed.clear()
        self.freed = self._held = False
        return bool(self.waiting)

    def task_of(self, g: int) -> int | None:
        """The task that asks for a guest in the queue; None: it does not wait."""
        waits = self.waiting.get(g)
        return None if waits is None else waits.task

    def has_turn(self, g: int) -> bool:
        """Whether a guest that asks is to be decided for now."""
        first = self._order[0] if self._order else self._key[g]
        if self._strict and first < self._key[g]:
            return False
        return g not in self.waiting or not (self._held or self._alike[g] in self._failed)

    def no_place(self, g: int, task: int, said: NoFit) -> None:
        """A guest that had its turn found no place, or one that arrived has to wait for its turn."""
        if g in self.waiting:
            self._failed.add(self._alike[g])
            self.waiting[g].said = said
        else:
            insort(self._order, self._key[g])
            self.waiting[g] = Waiting(task, said)

    def placed(self, g: int) -> None:
        """A guest found a place. The round goes on when it has left, if it does not stay at all."""
        if g in self.waiting:
            self._leave(g)
            self._held = self._momentary[g]

    def give_up(self, g: int) -> None:
        """A guest is not waited for any longer."""
        self._leave(g)
        # Who stood behind it may fit.
        self.freed |= self._strict

    def _leave(self, g: int) -> None:
        del self.waiting[g], self._order[bisect_left(self._order, self._key[g])]
