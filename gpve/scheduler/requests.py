"""Guests sorted into request classes (same demand on the same terms) and group rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpve.model.columns import Codes, Guests
from gpve.scheduler.columns import REQUEST_CLASS, RULE


@dataclass(frozen=True)
class Terms:
    """What a guest demands of a node's kind; None admits everything."""

    gpu_models: tuple[str, ...] | None
    selector: frozenset[tuple[str, str]] | None
    tolerations: frozenset[str] | None


ANYWHERE = Terms(None, None, None)
"""No demand on the kind of node."""


@dataclass(frozen=True)
class Requests:
    """G guests as C request classes and R group rules."""

    classes: NDArray[np.void]
    """(C,) of `REQUEST_CLASS`."""
    terms: tuple[Terms, ...]
    """By ``classes["constraint"]``."""
    of_guest: Codes
    """(G,) class of each guest."""
    rules: NDArray[np.void]
    """(R,) of `RULE`."""
    avoid: Codes
    rule_of_guest: Codes
    """(G,) rule of each guest, -1 for none; (0,) if no guest has one."""
    tracked: int
    """Most (group, role, node) counts that can be alive at once, on nodes without number."""


def encode(columns: Sequence[NDArray[Any]]) -> tuple[Codes, NDArray[np.int64]]:
    """(code of each row, first row of each code) of the distinct rows of several columns, in order of appearance."""
    if not len(columns[0]):
        # Without pyarrow, which imports all of pandas on its first array: a server has no use for them.
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
    import pyarrow as pa
    import pyarrow.compute as pc

    codes = None
    for column in columns:
        encoded = pc.dictionary_encode(pa.array(column))
        if codes is not None and len(encoded.dictionary) > 1:
            # Coded again at each step, so that the product of the counts cannot overflow.
            product = codes.astype(np.int64)
            product *= len(encoded.dictionary)
            product += encoded.indices.to_numpy(zero_copy_only=False)
            encoded = pc.dictionary_encode(pa.array(product))
            del product
        elif codes is not None:
            continue
        codes = encoded.indices.to_numpy(zero_copy_only=False)
    assert codes is not None
    count = int(codes.max()) + 1 if len(codes) else 0
    first = np.full(count, len(codes), dtype=np.int64)
    # Written from the last row to the first, the first row of each code stays.
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return codes.astype(np.int32, copy=False), first


def _pick(sets: tuple[Any, ...], codes: Codes | None, row: int) -> Any:
    if codes is None or codes[row] < 0:
        return None
    return sets[codes[row]]


def requests_of(guests: Guests) -> Requests:
    """Sort guests into classes and rules."""
    demand: list[NDArray[Any]] = [guests.cpu_milli, guests.memory_mib]
    demand += [c for c in (guests.gpu_count, guests.gpu_milli) if c is not None]
    kinds = [c for c in (guests.gpu_models, guests.selector, guests.tolerations) if c is not None]
    if kinds:
        constraint, constraint_first = encode(kinds)
        demand.append(constraint)
    else:
        constraint, constraint_first = None, np.zeros(min(1, len(guests)), dtype=np.int64)
    terms = tuple(
        Terms(
            _pick(guests.gpu_model_sets, guests.gpu_models, row),
            _pick(guests.selectors, guests.selector, row),
            _pick(guests.toleration_sets, guests.tolerations, row),
        )
        for row in constraint_first.tolist()
    )
    of_guest, first = encode(demand)
    classes = np.zeros(len(first), dtype=REQUEST_CLASS)
    classes["cpu"] = guests.cpu_milli[first]
    classes["mem"] = guests.memory_mib[first]
    if guests.gpu_count is not None and guests.gpu_milli is not None:
        classes["gpu_count"] = guests.gpu_count[first]
        classes["gpu_milli"] = guests.gpu_milli[first]
    if constraint is not None:
        classes["constraint"] = constraint[first]
    classes["slot"] = -1
    classes["ruled_out"] = -1
    rules, avoid, rule_of_guest, tracked = _rules(guests)
    return Requests(classes, terms, of_guest, rules, avoid, rule_of_guest, tracked)


def _rules(guests: Guests) -> tuple[NDArray[np.void], Codes, Codes, int]:
    """Rules, the groups they shun, the rule of each guest, and how many counts they may need."""
    none = np.zeros(0, dtype=RULE), np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32), 0
    if guests.group is None and guests.anti_affinity is None:
        return none
    nothing = np.full(len(guests), -1, dtype=np.int32)
    group = nothing if guests.group is None else guests.group
    limit = np.zeros_like(nothing) if guests.max_per_node is None else guests.max_per_node
    shuns = nothing if guests.anti_affinity is None else guests.anti_affinity
    # A group matters only if it is limited, or shunned by somebody.
    matters = np.zeros(len(guests.group_names) + 1, dtype=bool)
    matters[group[(limit > 0) & (group >= 0)]] = True
    for code in np.unique(shuns[shuns >= 0]):
        for shunned in guests.anti_affinity_sets[code]:
            matters[shunned] = True
    matters[-1] = False
    group = np.where(matters[group], group, -1).astype(np.int32)
    limit = np.where(group >= 0, limit, 0).astype(np.int32)
    ruled = (group >= 0) | (shuns >= 0)
    if not ruled.any():
        return none
    code, first = encode([group[ruled], limit[ruled], shuns[ruled]])
    rows = np.flatnonzero(ruled)
    rules = np.zeros(len(first), dtype=RULE)
    avoid: list[int] = []
    widest = 0
    for r, at in enumerate(rows[first].tolist()):
        shunned = sorted(guests.anti_affinity_sets[shuns[at]]) if shuns[at] >= 0 else []
        rules[r] = (group[at], limit[at], len(avoid), len(avoid) + len(shunned))
        avoid += shunned
        widest = max(widest, 1 + len(shunned))
    rule_of_guest = np.full(len(guests), -1, dtype=np.int32)
    rule_of_guest[rows] = code
    return rules, np.array(avoid, dtype=np.int32), rule_of_guest, len(rows) * widest
