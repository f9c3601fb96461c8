"""The nodes as an engine sees them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from gpve.tasks.advance import Operation
from gpve.tasks.outcome import Outcome

Answer = Callable[[Operation, Outcome], None]


class Nodes(Protocol):
    """Where operations go. Sending never blocks and never raises; answers come when they come, twice or never."""

    def holds(self, node: str) -> bool:
        """Whether this engine's process is the one that talks to the node."""

    def names(self) -> Sequence[str]:
        """The nodes that this engine's process talks to."""

    def send(self, operation: Operation, answer: Answer) -> None:
        """Send an operation; ``answer`` is called with the outcome, in the engine's own thread."""
