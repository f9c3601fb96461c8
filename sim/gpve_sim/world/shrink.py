"""Cutting a failing plan down to what makes it fail: delta debugging over what is asked for and what befalls.

A smaller plan counts if it has a finding of the same kind. Kinds are sentences without their numbers.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from gpve_sim.world.chaos_plan import Mishap, Plan, Wish

T = TypeVar("T")
Fails = Callable[[Plan], bool]
NUMBERS = re.compile(r"[\d.,]+")
RUNS = 400
"""Plans that are tried at most."""


def kind_of(finding: str) -> str:
    """The sentence, whichever task, guest and node it is about."""
    return NUMBERS.sub("#", re.sub(r"\{.*\}|\[.*\]|engine-\S+", "#", finding))


def shrink(plan: Plan, findings_of: Callable[[Plan], Sequence[str]], runs: int = RUNS) -> Plan:
    """The smallest plan found with a finding of the kind of the first of this plan; the plan itself if it has none."""
    found = findings_of(plan)
    if not found:
        return plan
    kind = kind_of(found[0])
    left = runs

    def fails(smaller: Plan) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and any(kind_of(finding) == kind for finding in findings_of(smaller))

    before: Plan | None = None
    while plan != before and left > 0:
        before, plan = plan, _round(plan, fails)
    return plan


def _round(plan: Plan, fails: Fails) -> Plan:
    events: list[Wish | Mishap] = _least([*plan.wishes, *plan.mishaps], lambda some: fails(_with(plan, some)))
    fewer = _with(plan, events)
    residents = _least(list(plan.residents), lambda some: fails(replace(fewer, residents=tuple(some))))
    return _fewer_engines(replace(fewer, residents=tuple(residents)), fails)


def _with(plan: Plan, events: Sequence[Wish | Mishap]) -> Plan:
    wishes = tuple(event for event in events if isinstance(event, Wish))
    return replace(plan, wishes=wishes, mishaps=tuple(event for event in events if isinstance(event, Mishap)))


def _fewer_engines(plan: Plan, fails: Fails) -> Plan:
    """One engine or two that talk to all nodes, if that does as well."""
    named = [int(mishap.subject) for mishap in plan.mishaps if mishap.what in ("crash", "pause")]
    for count in range(max(named, default=0) + 1, 3):
        wishes = tuple(replace(wish, engine=wish.engine % count) for wish in plan.wishes)
        smaller = replace(plan, engines=(None,) * count, wishes=wishes)
        if smaller == plan:
            break
        if fails(smaller):
            return smaller
    return plan


def _least(items: list[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """A part of ``items`` that fails and of which no single item can be left out (ddmin, complements only)."""
    parts = 2
    while items:
        size = max(1, -(-len(items) // parts))
        for first in range(0, len(items), size):
            rest = items[:first] + items[first + size :]
            if fails(rest):
                items, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(items), parts * 2)
    return items


def told(plan: Plan) -> list[str]:
    """A plan in sentences, in the order of time."""
    lines: list[tuple[float, str]] = []
    for wish in plan.wishes:
        what = f"{wish.what} {wish.body}" if wish.of is None else f"{wish.what} wish {wish.of}"
        lines.append((wish.at, f"wish {wish.number}: {what}, of engine {wish.engine}"))
    for mishap in plan.mishaps:
        subject = f" ({mishap.subject})" if mishap.subject else ""
        lasts = f" for {mishap.for_s:g} s" if mishap.for_s else ""
        lines.append((mishap.at, f"{mishap.what}{subject}{lasts}"))
    return [f"{at:9.3f} s  {line}" for at, line in sorted(lines)]
