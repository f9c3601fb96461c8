"""The scheduler as an engine sees it."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from gpve.tasks.advance import Question
from gpve.tasks.ledger import Row
from gpve.tasks.records import Decided, NoFit

NodeRows = Callable[[int, Collection[str]], Sequence[Row]]
"""As `gpve.world.store.Store.nodes`."""


class Placer(Protocol):
    """Decides on places."""

    def decide(self, questions: Sequence[Question], nodes: NodeRows) -> list[Decided | NoFit]:
        """One answer a question, in order, as if each had been claimed before the next is decided.

        ``nodes``: what to ask for the rows of table `node` that changed since they were last looked at: a decision
        costs what changed, not what there is. A decision carries the version of the node's row that it was made for,
        counting the decisions of the same call that came before.
        """
