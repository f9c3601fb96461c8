"""One answer for all that ask while it is being looked for."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """``look`` runs once at a time; whoever calls meanwhile gets its answer, or its error."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._look = look
        self._looking: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """The answer."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        # Whoever gives up does not end it for the others.
        return await asyncio.shield(self._looking)
