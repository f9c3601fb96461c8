"""The three stores that keep the one contract."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpve_sim.world.store import MemoryStore

from gpve.store.database import connect, migrate
from gpve.store.sql import SqlStore

_NUMBERS = itertools.count()


class Clock:
    """A clock that only the test moves; real databases have their own."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


DATABASES = ["sqlite", pytest.param("mariadb", marks=pytest.mark.xdist_group("mariadb"))]


def address_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new, empty database."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/gpve.db"
    address: str = request.getfixturevalue("mariadb").database(f"store{next(_NUMBERS)}")
    return address


@pytest.fixture(params=DATABASES)
def database_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A store in a database, empty; threads may share it."""
    database = connect(address_of(request.param, request, tmp_path))
    migrate(database)
    yield SqlStore(database)
    database.dispose()


@pytest.fixture(params=["memory", *DATABASES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store, empty."""
    if request.param == "memory":
        yield MemoryStore(Clock())
        return
    database = connect(address_of(request.param, request, tmp_path))
    migrate(database)
    yield SqlStore(database)
    database.dispose()
