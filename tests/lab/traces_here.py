"""The real traces, where this machine has them; tests are skipped by name where it has not."""

from pathlib import Path

import pytest
from gpve_sim.catalogue import ENTRIES, available, find
from gpve_sim.trace import Trace

_LOADED: dict[tuple[str, int], Trace] = {}


def need(name: str) -> Path:
    """The path of a real trace, or the test is skipped."""
    path = find(ENTRIES[name])
    if path is None:
        pytest.skip(f"{name} is not on this machine: `gpve traces pull {name}`")
    return path


def loaded(name: str, seed: int = 0) -> Trace:
    """A real trace, read once for all tests."""
    from gpve_sim.catalogue import load

    need(name)
    if (name, seed) not in _LOADED:
        _LOADED[name, seed] = load(name, seed=seed)
    return _LOADED[name, seed]


__all__ = ["available", "loaded", "need"]
