"""A call at a later time of a simulated world: what most of its events are."""

from collections.abc import Callable
from typing import Any

import simpy
from simpy.events import NORMAL


def _call(event: "Later") -> None:
    event.what(*event.given)


class Later(simpy.Event):  # type: ignore[misc]  # simpy is untyped here
    """``what(*given)`` after so many seconds. As a timeout with one callback, made in one go."""

    # The same for all of them: there are forty for each guest of a replay.
    callbacks = (_call,)
    _ok, _value = True, None

    def __init__(self, env: simpy.Environment, after_s: float, what: Callable[..., None], *given: Any) -> None:
        self.what, self.given = what, given
        env.schedule(self, NORMAL, after_s)
