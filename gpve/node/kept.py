"""The hardware of a simulated node on disk: a row a thing, and a change writes the rows that it changed.

What changed is found by comparing with what is on disk, which is kept in memory too. No verb has to say what it did, so
none can forget to; and comparing costs a small part of what writing would.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields
from typing import Any

from gpve.node.journal import Journal
from gpve.world.hardware import Hardware

KINDS = tuple(field.name for field in fields(Hardware))
"""All that hardware consists of: mappings, and sets."""


class Kept:
    """One node's hardware in its journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._read()

    def _read(self) -> None:
        self._lost = self._journal.disk.lost
        self._there = Hardware()
        for kind, key, value in self._journal.things():
            _put(getattr(self._there, kind), key, value)

    def restored(self) -> Hardware:
        """The hardware as it was kept last."""
        return deepcopy(self._there)

    def keep(self, hardware: Hardware) -> None:
        """Keep it as it is now; it is on disk with the journal's next commit, all of it or nothing.

        Raises `sqlite3.Error`; then nothing of it is kept, and the next call keeps that too.
        """
        if self._journal.disk.lost != self._lost:
            # Some of what was written since is not on disk after all.
            self._read()
        for kind in KINDS:
            now, there = getattr(hardware, kind), getattr(self._there, kind)
            if now == there:
                continue
            for key in [key for key in there if key not in now]:
                self._journal.drop_thing(kind, key)
                _drop(there, key)
            for key, value in _changed(now, there):
                self._journal.keep_thing(kind, key, value)
                _put(there, key, value)


def _changed(now: Any, there: Any) -> Iterator[tuple[Any, Any]]:
    """What is new or another in a mapping or a set; a set's members have no value."""
    if isinstance(now, set):
        return ((key, None) for key in now - there)
    return iter([(key, value) for key, value in now.items() if key not in there or there[key] != value])


def _put(things: Any, key: Any, value: Any) -> None:
    if isinstance(things, set):
        things.add(key)
    else:
        things[key] = value


def _drop(things: Any, key: Any) -> None:
    if isinstance(things, set):
        things.remove(key)
    else:
        del things[key]
