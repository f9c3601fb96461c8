"""A user's own policy beside best-fit, in one process: replay of VMs with departures. Prints one JSON line."""

import argparse
import json
import statistics

import gpve_sim as lab


@lab.policy
def tightest(free_cpu, free_mem, free_gpu, node, req):  # type: ignore[no-untyped-def]
    """The node with the least left, as a user would write it."""
    return -((free_cpu - req.cpu) / node.cpu + (free_mem - req.mem) / node.mem)


def main() -> None:
    """Replay under both in turn, so that both see the same machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--guests", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    trace = lab.load("generated/peers", seed=1, hosts=options.hosts, guests=options.guests)
    rates: dict[str, list[int]] = {"best-fit": [], "tightest": []}
    for _ in range(options.repeat):
        for name, policy in (("best-fit", "best-fit"), ("tightest", tightest)):
            rates[name].append(lab.replay(trace, policy).summary["placements_per_s"])
    medians = {name: round(statistics.median(seen)) for name, seen in rates.items()}
    line = {"bench": "own_policy", "hosts": options.hosts, "guests": options.guests}
    print(json.dumps({**line, "placements_per_s": rates, "median": medians}))


if __name__ == "__main__":
    main()
