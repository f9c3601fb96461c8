"""The sentences that a script may use: each a pattern, and the function that acts.

In a pattern, words in lower case stand for themselves; words in capitals stand for what `_VALUES` says. What is the
name of a node or an engine is looked up in the cluster when the script is read, so that a slip of the pen is found
with its line.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpve.model.phases import MOVES, STEADY
from gpve.world.verbs import VERBS
from gpve_sim.world.scenario_cluster import ClusterSpec

Act = Callable[..., str | None]
"""(stage, what the capitals stood for...) -> for an expectation: why it does not hold, or None."""

PATTERNS: dict[str, Act] = {}
"""By pattern: what it does."""


class NotUnderstood(Exception):
    """A sentence that is none, and why."""


def phrase(pattern: str) -> Callable[[Act], Act]:
    """Decorates the function that acts on a pattern."""

    def register(act: Act) -> Act:
        PATTERNS[pattern] = act
        return act

    return register


@dataclass(frozen=True)
class Sentence:
    """A sentence that was understood."""

    act: Act
    values: tuple[Any, ...]


def understand(words: Sequence[str], cluster: ClusterSpec) -> Sentence:
    """The sentence that these words are. Raises `NotUnderstood`."""
    problem = None
    for pattern, act in PATTERNS.items():
        parts = pattern.split()
        if len(parts) != len(words) or any(p != w for p, w in zip(parts, words, strict=True) if p.islower()):
            continue
        try:
            slots = [(p, w) for p, w in zip(parts, words, strict=True) if not p.islower()]
            return Sentence(act, tuple(_VALUES[part](word, cluster) for part, word in slots))
        except NotUnderstood as error:
            problem = problem or error
    if problem is not None:
        raise problem
    near = difflib.get_close_matches(" ".join(words), PATTERNS, n=1, cutoff=0.0)
    raise NotUnderstood(f"{' '.join(words)!r} is no sentence; the nearest is '{near[0]}'")


def _number(word: str, cluster: ClusterSpec) -> int:
    if not word.isdecimal():
        raise NotUnderstood(f"{word!r} is no whole number")
    return int(word)


def _seconds(word: str, cluster: ClusterSpec) -> float:
    try:
        found = float(word)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise NotUnderstood(f"{word!r} is no number of seconds")
    return found


def _one_of(what: str, there: Callable[[ClusterSpec], Sequence[str]]) -> Callable[[str, ClusterSpec], str]:
    def find(word: str, cluster: ClusterSpec) -> str:
        names = list(there(cluster))
        if word not in names:
            shown = names if len(names) < 12 else difflib.get_close_matches(word, names, n=3, cutoff=0.0)
            raise NotUnderstood(f"no {what} {word!r}; there are {', '.join(shown)}")
        return word

    return find


STATUSES = ("queued", "running", "waiting", "undoing", "done", "undone", "stuck", "unreadable")

PHASES = tuple(sorted(set().union(*STEADY.values(), *({move.during} for m in MOVES.values() for move in m.values()))))

_VALUES: dict[str, Callable[[str, ClusterSpec], Any]] = {
    "N": _number,
    "S": _seconds,
    "NODE": _one_of("node", lambda cluster: list(cluster.nodes)),
    "ENGINE": _one_of("engine", lambda cluster: list(cluster.engines)),
    "VERB": _one_of("verb", lambda cluster: list(VERBS)),
    "STATUS": _one_of("status", lambda cluster: STATUSES),
    "PHASE": _one_of("phase", lambda cluster: PHASES),
    "WORD": lambda word, cluster: word,
}
