"""The scheduler as an engine sees it."""

from collections.abc import Sequence
from typing import Protocol

from gpve.tasks.advance import Question
from gpve.tasks.ledger import Row
from gpve.tasks.records import Decided, NoFit


class Placer(Protocol):
    """Decides on places."""

    def decide(self, questions: Sequence[Question], nodes: Sequence[Row]) -> list[Decided | NoFit]:
        """One answer a question, in order, as if each had been claimed before the next is decided.

        ``nodes``: the rows of table `node` as they are now. A decision carries the version of the node's row that it
        was made for, counting the decisions of the same call that came before.
        """
