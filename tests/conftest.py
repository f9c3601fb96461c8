"""Shared by all tests."""

import sys
from dataclasses import dataclass

import pytest


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
