"""What a node keeps of who it is: whole, or as it was."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from gpve.model.errors import InputError
from gpve.node.identity import FILE, Identity, keep, load, try_to_keep

ME = Identity("a", b"key", b"certificate", b"ca", ("10.0.0.1:7462",))


def test_it_is_kept_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    assert load(tmp_path) is None
    try_to_keep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    keep(tmp_path, ME)
    assert load(tmp_path) == ME
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [(FILE, 0o600)]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    keep(tmp_path, ME)
    monkeypatch.setattr(os, "fsync", full)
    for attempt in (lambda: keep(tmp_path, replace(ME, key=b"new")), lambda: try_to_keep(tmp_path)):
        with pytest.raises(OSError, match="No space"):
            attempt()
    assert load(tmp_path) == ME
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("damaged", ["", "{", "[]", "{}", '{"name": "a"}', '{"name": "a", "key": 1, "servers": []}'])
def test_a_damaged_one_is_told_in_a_sentence(damaged: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(damaged)
    with pytest.raises(InputError, match="remove it, and join anew"):
        load(tmp_path)
