"""``python -m gpve.server.warm POLICY``: compile what decisions need, once per version, in a process of its own.

A server would keep what the compiler took, 60 MiB, for weeks. What was compiled lies in a cache, from which it loads.
"""

import contextlib
import subprocess
import sys

import numpy as np

from gpve.model.columns import Nodes
from gpve.model.errors import InputError
from gpve.scheduler.compiled import cache_directory
from gpve.scheduler.live import Demand, LiveCluster
from gpve.scheduler.policy import Policy, load


def warm(policy: Policy) -> None:
    """Have everything compiled that a decision needs: the first one must not take a minute."""
    one = np.ones(1, dtype=np.int64)
    none = np.zeros(1, dtype=np.int32)
    cluster = LiveCluster(Nodes(("warm",), one, one, none, none - 1), policy, index_bytes=1 << 16)
    cluster.observe(0, 1, 1, [], True)
    cluster.place(Demand(1, 1), 0)
    cluster.place(Demand(1, 1))
    cluster.explain(Demand(2, 1))


def compile_apart(policy: str) -> None:
    """Run this module unless the cache was filled before. If it fails, it is the server that finds out why."""
    filled = cache_directory() / "filled"
    if filled.exists():
        return
    done = subprocess.run([sys.executable, "-m", __name__, policy], stderr=subprocess.DEVNULL)
    if done.returncode == 0:
        with contextlib.suppress(OSError):
            filled.touch()


if __name__ == "__main__":
    try:
        warm(load(sys.argv[1]))
    except InputError:
        sys.exit(2)
