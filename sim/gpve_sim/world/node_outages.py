"""Losses of power of nodes at lifecycle fidelity, and what high availability makes of them.

A trace lasts for weeks, and nodes beat every few seconds: the beats that tell nothing new are not played. A node that
falls silent is declared dead after a lease and a margin, a node that returns says that it was started anew, by the
very transactions of `gpve.tasks.ha` that engines make in production.
"""

from collections.abc import Callable
from functools import partial

from gpve.tasks.ha import declare_dead, rejoin, renew
from gpve.tasks.ledger import Work
from gpve_sim.world.engine import World
from gpve_sim.world.later import Later
from gpve_sim.world.outages import Failures

JOINED = "0"
"""What a node calls its first start."""


class NodeOutages:
    """``fell``, ``returned``: told of nodes that lose power, and of those that have it again."""

    def __init__(
        self, world: World, failures: Failures, fell: Callable[[str], None], returned: Callable[[str], None]
    ) -> None:
        self._world, self._failures, self._fell, self._returned = world, failures, fell, returned
        self._lots = {name: failures.node_lots(name) for name in world.nodes.names()} if failures.any else {}
        self.count = 0

    def until_next(self, name: str) -> float:
        """Seconds from now until a node that has power loses it."""
        mtbf_s = self._failures.node_mtbf_s
        return float(self._lots[name].exponential(mtbf_s)) if mtbf_s < float("inf") else mtbf_s

    def is_up(self, name: str) -> bool:
        """Whether a node has power."""
        return self._world.nodes.by_name[name].up

    def fail(self, name: str) -> None:
        """A node loses power, for a while."""
        self.count += 1
        for_s = float(self._lots[name].exponential(self._failures.node_mttr_s))
        store, node = self._world.store, self._world.nodes.by_name[name]
        if not store.rows("session", node=name):
            store.transact([Work(partial(renew, node=name, boot=JOINED, engine="nobody yet"))])
        self._world.nodes.power_loss(name, for_s)
        self._fell(name)
        boots, beat = node.boots, store.rows("session", node=name)[0]["beat"]
        silent_s = self._failures.lease_s + self._failures.margin_s
        Later(self._world.env, silent_s, self._miss, name, boots, beat)
        Later(self._world.env, for_s, self._return, name)

    def _miss(self, name: str, boots: int, beat: int) -> None:
        node = self._world.nodes.by_name[name]
        if node.boots == boots and not node.up:
            self._world.engines[0].see_to(partial(declare_dead, node=name, beat=beat))

    def _return(self, name: str) -> None:
        engine = self._world.engines[0]
        boot = str(self._world.nodes.by_name[name].boots)
        engine.hear(name, boot, lambda granted: engine.see_to(partial(rejoin, node=name)))
        self._returned(name)
