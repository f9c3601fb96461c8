"""A call at a later time of a simulated world: what most of its events are."""

from collections.abc import Callable
from typing import Any

import simpy
from simpy.events import NORMAL


class Later(simpy.Event):  # type: ignore[misc]  # simpy is untyped here
    """``what(*given)`` after so many seconds. As a timeout with one callback, made in one go."""

    def __init__(self, env: simpy.Environment, after_s: float, what: Callable[..., None], *given: Any) -> None:
        self.env = env
        self.callbacks = (self._call,)
        self._ok, self._value = True, None
        self._what, self._given = what, given
        env.schedule(self, NORMAL, after_s)

    def _call(self, _: simpy.Event) -> None:
        self._what(*self._given)
