"""The smallest cluster of one type of node that takes a trace."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpve.model.columns import FOREVER, Guests, Nodes
from gpve.model.errors import InputError
from gpve_sim.catalogue import load
from gpve_sim.cluster_size import peak
from gpve_sim.driver import Settings, replay_trace
from gpve_sim.inventory import parse_inventory
from gpve_sim.kernel.tables import A_FAILED
from gpve_sim.policies import find_policy
from gpve_sim.trace import Trace


def smallest(
    trace: str | Trace,
    node: str,
    policy: str,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The fewest nodes of type ``node`` without a failure, found by doubling and bisection.

    Placement heuristics are not monotone: a larger cluster may fail where a smaller one does not. The answer is a
    number of nodes that suffices while one less does not.
    """
    loaded = load(trace, seed=seed) if isinstance(trace, str) else trace
    chosen = find_policy(policy)
    departs = loaded.departures
    one = parse_inventory(f"1x({node})")
    bound = _lower_bound(loaded.guests, one, departs)
    failed: dict[int, int] = {}

    def fails(count: int) -> int:
        if count == 0:
            return len(loaded.guests)
        if count not in failed:
            replayed = replay_trace(
                loaded,
                chosen,
                nodes=parse_inventory(f"{count}x({node})"),
                settings=Settings(departures=departs, seed=seed),
            )
            failed[count] = int(replayed.run.at[A_FAILED])
            if progress is not None:
                progress(len(failed), 20)
        return failed[count]

    _check_fits(loaded.guests, one)
    high = max(bound, 1)
    low = high - 1
    while fails(high):
        low, high = high, high + max(high // 4, 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fails(middle) else (low, middle)
    while high > 1 and not fails(high - 1):
        high -= 1
    return {
        "nodes": high, "node": node, "policy": policy, "lower_bound": bound,
        "failed_with_one_less": fails(high - 1), "replays": len(failed),
    }  # fmt: skip


def _lower_bound(guests: Guests, one: Nodes, departs: bool) -> int:
    """No cluster with fewer nodes can hold the peak of CPU, memory or GPU."""
    needs = [(guests.cpu_milli, int(one.cpu_milli[0])), (guests.memory_mib, int(one.memory_mib[0]))]
    if guests.gpu_count is not None and guests.gpu_milli is not None and one.gpu_count[0]:
        needs.append((guests.gpu_count.astype(np.int64) * guests.gpu_milli, int(one.gpu_count[0]) * 1000))
    departure = guests.departure_s if departs else np.full(len(guests), FOREVER)
    return max(-(-peak(guests, need, departure) // have) for need, have in needs)


def _check_fits(guests: Guests, one: Nodes) -> None:
    gpus = np.zeros(len(guests), dtype=np.int64) if guests.gpu_count is None else guests.gpu_count
    too_large = (
        (guests.cpu_milli > one.cpu_milli[0]) | (guests.memory_mib > one.memory_mib[0]) | (gpus > one.gpu_count[0])
    )
    if too_large.any():
        row = int(np.argmax(too_large))
        raise InputError(
            f"no number of these nodes takes guest {guests.ids[row].as_py()!r}: it asks for {guests.cpu_milli[row]} "
            f"milli-CPU, {guests.memory_mib[row]} MiB and {gpus[row]} GPUs"
        )
