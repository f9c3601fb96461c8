"""A replay at lifecycle fidelity: guests a second through the task engine, the log kept, and the memory at its peak.

``python bench/lifecycle.py [NODES] [GUESTS]``: VMs of five sizes arrive, run and end, as in `replay.py`, and every one
goes through create, stop and delete with the default durations.
"""

import json
import resource
import sys
import time

from gpve_sim.catalogue import load as load_trace
from gpve_sim.policies import load
from gpve_sim.world.lifecycle import replay_lifecycle
from gpve_sim.world.profile import Profile

from gpve.cli.collector import collect_seldom


def main(nodes: int = 1_000, guests: int = 20_000) -> None:
    """Print one line of JSON. What is measured is what the command line does."""
    collect_seldom()
    trace = load_trace("generated/peers", seed=1, hosts=nodes, guests=guests)
    began_s = time.process_time()
    played = replay_lifecycle(trace, load("best-fit"), profile=Profile(seed=1))
    used_s = time.process_time() - began_s
    said = played.summary()
    print(
        json.dumps(
            {
                "bench": "lifecycle",
                "nodes": nodes,
                "guests": guests,
                "guests_per_s": said["guests_per_s"],
                "guests_per_cpu_s": round(guests / used_s),
                "log_rows": said["log_rows"],
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
