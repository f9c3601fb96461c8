"""Shared by all tests."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tasks.mariadb import MariaDb


@dataclass
class Told:
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def gpve(capsys, monkeypatch):
    """Run a command in this process: ``gpve("replay", ...)``."""

    def run(*arguments: str) -> Told:
        from gpve.cli.main import main

        monkeypatch.setattr(sys, "argv", ["gpve", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capsys.readouterr()
        return Told(code, out, err)

    return run


def _server(directory: Path) -> MariaDb:
    if shutil.which("mariadbd") is None and not Path("/usr/sbin/mariadbd").exists():
        pytest.skip("mariadb-server is not installed (make test installs it where apt-get may)")
    server = MariaDb(directory)
    server.start()
    return server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A MariaDB server for the session."""
    server = _server(tmp_path_factory.mktemp("mariadb") / "server")
    yield server
    server.stop()


@pytest.fixture
def mariadb_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A MariaDB server for one test, to be killed."""
    server = _server(tmp_path_factory.mktemp("mariadb") / "server")
    yield server
    server.stop()
