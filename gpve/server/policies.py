"""Which placement policy decides: the cluster's, and those of projects that have their own.

The store says which (table ``placement``, where the empty project is the cluster). Every server looks now and then,
has a policy compiled that is new to it, and uses it from then on.
"""

import asyncio
import logging
from collections.abc import Sequence

from gpve.model.errors import InputError
from gpve.scheduler.policy import Policy, load
from gpve.server.warm import warm
from gpve.tasks.flow import Place
from gpve.tasks.ledger import Row

LOG = logging.getLogger(__name__)
CLUSTER = ""
"""Stands for all projects that have no policy of their own."""


class Policies:
    """What is ready to decide. ``default``: where the store names none."""

    def __init__(self, default: Policy) -> None:
        self.default = default
        self._ready = {default.name: default}
        self._unknown: set[str] = set()
        """Policies that this version does not have, and has said so."""
        self._of: dict[str, Policy] = {}
        """By project. Replaced as a whole: the engine's thread reads it."""

    def chosen(self, place: Place) -> Policy:
        """The policy that decides on a place."""
        of = self._of
        return of.get(place.project) or of.get(CLUSTER) or self.default

    async def take_over(self, rows: Sequence[Row]) -> None:
        """The store's table says this now. A policy that this version does not have is left out, and said so."""
        of = {}
        for row in rows:
            name = row["policy"]
            if name not in self._ready:
                try:
                    policy = load(name)
                except InputError as error:
                    if name not in self._unknown:
                        self._unknown.add(name)
                        LOG.warning("project %r keeps the policy it had: %s", row["project"], error)
                    if row["project"] in self._of:
                        of[row["project"]] = self._of[row["project"]]
                    continue
                # A decision must not wait for the compiler.
                await asyncio.get_running_loop().run_in_executor(None, warm, policy)
                self._ready[name] = policy
            of[row["project"]] = self._ready[name]
        self._of = of
