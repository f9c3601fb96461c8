"""A node agent's journal: what it says of operations after a restart, and what is left of a task that it forgets."""

from pathlib import Path
from typing import Any

import pytest

from gpve.node import journal
from gpve.node.journal import Disk, Journal
from gpve.tasks.advance import Operation
from gpve.tasks.operations import STALE, Make, admit
from gpve.tasks.outcome import Done, Refused


def operation(task: int, epoch: int, direction: Any = "do", **more: Any) -> Operation:
    return Operation(task, "define", direction, "a", "vm.define", {}, "guest/100", epoch, **more)


def test_what_was_done_is_known_after_a_restart(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "journal.db")
    first = Journal(disk, "a")
    assert admit(first, operation(1, 5)) == Make()
    first.record(operation(1, 5), {"made": 1})
    disk.close()
    again = Journal(Disk(tmp_path / "journal.db"), "a")
    assert admit(again, operation(1, 6)) == Done({"made": 1})
    assert admit(again, operation(1, 5)) == Refused(STALE)
    assert admit(Journal(again.disk, "b"), operation(1, 5)) == Make(), "another node's table is its own"


def test_a_task_is_forgotten_behind_a_fence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that comes when nothing of its task is left is refused; the next task on the guest is not."""
    disk = Disk(tmp_path / "journal.db")
    table = Journal(disk, "a")
    for made in (operation(1, 5), operation(1, 5, "undo", tombstone=True)):
        admit(table, made)
        table.record(made, {})
    disk.forget()
    assert table.done((1, "define", "do")) == {}, "it is kept for days"
    monkeypatch.setattr(journal, "KEPT_S", -1.0)
    disk.forget()
    assert table.done((1, "define", "do")) is None
    assert not table.tombstone(1, "define")
    assert admit(table, operation(1, 5)) == Refused(STALE)
    assert admit(table, operation(2, 6)) == Make()


def test_what_a_later_task_holds_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting the task before does not refuse the one that is at work by now."""
    table = Journal(Disk(tmp_path / "journal.db"), "a")
    admit(table, operation(1, 5))
    table.record(operation(1, 5), {})
    assert admit(table, operation(2, 9)) == Make()
    monkeypatch.setattr(journal, "KEPT_S", -1.0)
    table.disk.forget()
    assert admit(table, operation(2, 9)) == Make()
    assert admit(table, operation(1, 5)) == Refused(STALE)
