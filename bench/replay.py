"""Replay of VMs with departures: how many placements a second, in how much memory."""

import argparse
import json
import resource
import subprocess
import sys

SIZES = ((1_000, 1_000_000), (10_000, 1_000_000), (100_000, 5_000_000))


def peak_mib() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(hosts: int, guests: int, policy: str, repeat: int) -> None:
    """Measure one size in this process, and print it."""
    from gpve_sim.catalogue import load
    from gpve_sim.driver import replay_trace
    from gpve_sim.policies import find_policy

    trace = load("generated/peers", seed=1, hosts=hosts, guests=guests)
    before = peak_mib()
    seconds = []
    for _ in range(repeat):
        replayed = None  # one result in memory at a time, as on the command line
        replayed = replay_trace(trace, find_policy(policy))
        seconds.append(replayed.replay_s)
    assert replayed is not None
    print(
        json.dumps(
            {
                "hosts": hosts,
                "guests": guests,
                "replay_s": [round(s, 4) for s in seconds],
                "placements_per_s": round(int((replayed.run.node >= 0).sum()) / min(seconds)),
                "scores_per_placement": round(replayed.scored / guests, 2),
                "trace_columns_mib": round(trace.guests.nbytes() / 2**20, 1),
                "peak_rss_mib": round(peak_mib(), 1),
                "peak_rss_before_replay_mib": round(before, 1),
            }
        )
    )


def main() -> None:
    """All sizes, each in a process of its own, so that memory can be told apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="best-fit")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", nargs=2, type=int, metavar=("HOSTS", "GUESTS"))
    options = parser.parse_args()
    if options.one:
        one(*options.one, options.policy, options.repeat)
        return
    rows = []
    # The first of all compiles if need be, which takes memory of its own: it is not among the rows.
    subprocess.run([sys.executable, __file__, "--one", "10", "1", "--repeat", "1"], check=True, capture_output=True)
    for hosts, guests in ((10_000, 1), *SIZES):
        command = [sys.executable, __file__, "--policy", options.policy, "--one", str(hosts), str(guests)]
        command += ["--repeat", "1" if guests == 1 else str(options.repeat)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    empty = rows[0]["peak_rss_mib"]
    for row in rows[1:]:
        row["mib_above_almost_empty_besides_columns"] = round(row["peak_rss_mib"] - empty - row["trace_columns_mib"], 1)
    print(json.dumps({"bench": "replay", "policy": options.policy, "almost_empty_mib": empty, "rows": rows[1:]}))


if __name__ == "__main__":
    main()
