"""The lab: replay traces over a simulated cluster with GPVE's own scheduler.

    import gpve_sim as lab

    trace = lab.load("openb/default")
    run = lab.replay(trace, "fgd", departures=False)
    lab.compare(trace, ["fgd", "best-fit"], seeds=10).table()

Names are imported when they are first used: the command line must start quickly.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpve.scheduler.policy import Policy, policy
    from gpve_sim.api import Result, replay
    from gpve_sim.catalogue import available, load, load_nodes
    from gpve_sim.comparison import Comparison, compare
    from gpve_sim.policies import find_policy
    from gpve_sim.trace import Trace

_PLACES = {
    "Comparison": "gpve_sim.comparison",
    "Policy": "gpve.scheduler.policy",
    "Result": "gpve_sim.api",
    "Trace": "gpve_sim.trace",
    "available": "gpve_sim.catalogue",
    "compare": "gpve_sim.comparison",
    "find_policy": "gpve_sim.policies",
    "lifecycle": "gpve_sim.world.played",
    "load": "gpve_sim.catalogue",
    "load_nodes": "gpve_sim.catalogue",
    "policy": "gpve.scheduler.policy",
    "replay": "gpve_sim.api",
}

__all__ = [
    "Comparison",
    "Policy",
    "Result",
    "Trace",
    "available",
    "compare",
    "find_policy",
    "lifecycle",
    "load",
    "load_nodes",
    "policy",
    "replay",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'gpve_sim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
