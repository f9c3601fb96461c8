"""How long things take in a simulated world: a documented profile, and the one in which nothing takes any time.

Times are medians of lognormal draws (sigma ``spread``), by seed and operation; what moves data takes its size over a
bandwidth as well. The defaults are measured on two shared cores where a source is named, else assumptions that say so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist

from gpve.tasks.advance import Operation, draw

_SECONDS: dict[str, float] = {
    # QEMU under libvirt without KVM: define and start 0.6 s, save 2 s, restore 0.9 s, snapshot 0.4 to 1.2 s (measured).
    "vm.define": 0.1,
    "vm.start": 0.5,
    "vm.stop": 0.3,
    "vm.shutdown": 5.0,
    "vm.reboot": 6.0,
    "vm.transfer": 1.1,
    "vm.snapshot": 0.8,
    "vm.rollback": 0.9,
    # A Kubernetes control plane of its own: ready 2.2 to 2.7 s after a cold start, 1.9 to 2.3 s after a warm one,
    # stopped in 2 s (measured).
    "vcluster.start": 2.5,
    "vcluster.stop": 2.0,
    "vcluster.wake": 2.1,
    "vcluster.sleep": 2.0,
    # An agent's process in a sandbox of namespaces, a network of its own and limits: 1.4 to 2.4 ms (measured).
    "agent.confine": 0.0014,
    "agent.start": 0.03,
    "agent.kill": 0.005,
    "agent.pause": 0.001,
    "agent.resume": 0.001,
    # Assumptions: a thin volume, a bridge port.
    "volume.create": 0.2,
    "volume.delete": 0.1,
    "volume.erase": 0.2,
    "port.plug": 0.05,
    "port.unplug": 0.05,
}
NORMAL = NormalDist()
LEAST_LOT = 2.0**-64
"""A lot may be zero, whose quantile is no number."""
OTHER_S = 0.05
"""An operation that is not in the table (an assumption)."""


@dataclass(frozen=True)
class Profile:
    """Durations in seconds, bandwidths in MiB a second."""

    seconds: Mapping[str, float] = field(default_factory=lambda: dict(_SECONDS))
    other_s: float = OTHER_S
    spread: float = 0.3
    memory_mib_per_s: float = 1_100.0
    """Of a live migration: a link of 10 Gbit/s, 90 % of it (an assumption)."""
    seed: int = 0

    def work_s(self, operation: Operation, at_once: int = 1) -> float:
        """How long a node works on an operation; ``at_once``: transfers that share the node's link, this one too."""
        median = self.seconds.get(operation.verb, self.other_s)
        if median == 0.0:
            return 0.0
        lot = draw(self.seed, operation.task, place_of(operation.step, operation.direction))
        took = median * math.exp(self.spread * NORMAL.inv_cdf(max(lot, LEAST_LOT)))
        if operation.verb == "vm.transfer":
            took += at_once * float(operation.arguments["memory_mib"]) / self.memory_mib_per_s
        return took


@cache
def place_of(step: str, direction: str) -> int:
    """A number for (step, direction), the same in every process."""
    return sum(ord(letter) * 31**at for at, letter in enumerate(step + direction)) % (1 << 32)


NO_TIME = Profile(seconds={}, other_s=0.0)
"""Nothing takes any time: what placement fidelity assumes."""
