"""Traces cut, filtered, sampled and scaled in time; usage follows its guests."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpve.model import KINDS, Guests, InputError, Usage
from gpve_sim.streams import stream
from gpve_sim.trace import Trace


def scale_time(trace: Trace, factor: float) -> Trace:
    """All times multiplied by ``factor``: 0.5 is twice as fast. Times of nodes are scaled too."""
    if not 0 < factor < np.inf:
        raise InputError(f"a time factor of {factor:g} is not above 0")
    guests, nodes, usage = trace.guests, trace.nodes, trace.usage
    guests = replace(
        guests,
        arrival_s=guests.arrival_s * factor,
        departure_s=guests.departure_s * factor,
        deadline_s=None if guests.deadline_s is None else guests.deadline_s * factor,
    )
    nodes = replace(
        nodes,
        add_s=None if nodes.add_s is None else nodes.add_s * factor,
        drain_s=None if nodes.drain_s is None else nodes.drain_s * factor,
    )
    if usage is not None:
        usage = replace(usage, start_s=usage.start_s * factor, end_s=usage.end_s * factor)
    note = f"Times are multiplied by {factor:g}."
    return replace(trace, guests=guests, nodes=nodes, usage=usage, notes=(*trace.notes, note))


def window(trace: Trace, start_s: float = 0.0, end_s: float = np.inf) -> Trace:
    """Guests that arrive from ``start_s`` up to, but not at, ``end_s``; times stay as they are."""
    if not start_s < end_s:
        raise InputError(f"the window from {start_s:g} to {end_s:g} is empty")
    arrival = trace.guests.arrival_s
    kept = np.flatnonzero((arrival >= start_s) & (arrival < end_s))
    return take(trace, kept, f"Only arrivals from {start_s:g} s to {end_s:g} s")


def rows(trace: Trace, start: int = 0, stop: int | None = None) -> Trace:
    """Guests by their place in the trace, from ``start`` (counted from 0) to before ``stop``."""
    kept = np.arange(len(trace.guests))[start:stop]
    return take(trace, kept, f"Only rows {start} to {len(trace.guests) if stop is None else stop}")


def select(
    trace: Trace,
    *,
    kinds: Sequence[str] = (),
    groups: Sequence[str] = (),
    cpu_milli: tuple[int, int] | None = None,
    gpus: tuple[int, int] | None = None,
) -> Trace:
    """Guests of these kinds and groups whose CPU and number of GPUs lie in these ranges (both ends included)."""
    guests = trace.guests
    keep = np.ones(len(guests), dtype=np.bool_)
    words = []
    if kinds:
        for kind in kinds:
            if kind not in KINDS:
                raise InputError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
        keep &= np.isin(guests.kind, [KINDS.index(kind) for kind in kinds])
        words.append(f"of kind {', '.join(kinds)}")
    if groups:
        for group in groups:
            if group not in guests.group_names:
                raise InputError(f"no guest is in the group {group!r}")
        codes = guests.group if guests.group is not None else np.full(len(guests), -1, dtype=np.int32)
        keep &= np.isin(codes, [guests.group_names.index(group) for group in groups])
        words.append(f"in {', '.join(groups)}")
    if cpu_milli is not None:
        keep &= (guests.cpu_milli >= cpu_milli[0]) & (guests.cpu_milli <= cpu_milli[1])
        words.append(f"with {cpu_milli[0]} to {cpu_milli[1]} milli-CPU")
    if gpus is not None:
        count = guests.gpu_count if guests.gpu_count is not None else np.zeros(len(guests), dtype=np.int32)
        keep &= (count >= gpus[0]) & (count <= gpus[1])
        words.append(f"with {gpus[0]} to {gpus[1]} GPUs")
    return take(trace, np.flatnonzero(keep), f"Only guests {' and '.join(words)}") if words else trace


def sample(trace: Trace, count: int, seed: int = 0) -> Trace:
    """``count`` guests drawn by ``seed`` without repetition, in the order of the trace."""
    total = len(trace.guests)
    if not 1 <= count <= total:
        raise InputError(f"{count} guests cannot be drawn from {total:,}")
    kept = np.sort(stream(seed, "sample").choice(total, count, replace=False))
    return take(trace, kept, f"A sample (seed {seed})")


def take(trace: Trace, kept: NDArray[np.int64], words: str) -> Trace:
    """The guests at ``kept`` (rising) with their usage. Raises `InputError` if there are none."""
    if len(kept) == 0:
        raise InputError(f"{words}: none of {len(trace.guests):,} guests is left")
    guests: Guests = trace.guests.take(kept.astype(np.int64))
    usage = trace.usage
    if usage is not None:
        place = np.full(len(trace.guests), -1, dtype=np.int32)
        place[kept] = np.arange(len(kept), dtype=np.int32)
        mine = np.flatnonzero(place[usage.guest] >= 0)
        usage = Usage(
            place[usage.guest[mine]], usage.start_s[mine], usage.end_s[mine], usage.cpu_milli[mine],
            usage.memory_mib[mine], None if usage.phase is None else usage.phase[mine], usage.phase_names,
        )  # fmt: skip
    note = f"{words}: {len(kept):,} of {len(trace.guests):,} guests."
    return replace(trace, guests=guests, usage=usage, notes=(*trace.notes, note))
