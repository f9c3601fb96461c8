"""A live cluster's dump (`gpve dump`) in the simulator: loaded, audited, and every placement decided again."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from gpve.model.errors import InputError
from gpve.scheduler.policy import Policy, load
from gpve.tasks.advance import Question
from gpve.tasks.audit import audit
from gpve.tasks.flow import Place
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Row
from gpve.tasks.records import Decided
from gpve.tasks.tables import TABLES
from gpve.world.placement import SchedulerPlacer


@dataclass
class Dump:
    """What a file holds: rows by table, and the revision up to which it is true."""

    revision: int
    compacted: int
    rows: dict[str, list[Row]]

    def read(self, table: str) -> list[Row]:
        """All rows of a table; none, if it is not in a dump."""
        return self.rows.get(table, [])


@dataclass
class Compared:
    """What deciding again came to."""

    calls: int = 0
    """Calls of schedulers."""
    decisions: int = 0
    """Places decided on in them."""
    servers: int = 0
    skipped: int = 0
    """Calls that saw nodes as they were before what the dump still has."""
    differing: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """Of an audit of the dump: locks, claims, quota, and every decision in every log."""


def read(file: Path) -> Dump:
    """Read a dump. Raises `InputError` with the line at fault."""
    rows: dict[str, list[Row]] = defaultdict(list)
    head: dict[str, Any] = {}
    number, end = 0, None
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                told = orjson.loads(line)
                if number == 1:
                    if not isinstance(told, dict) or told.get("gpve_dump") != 2:
                        raise InputError("is no dump of a cluster that this version reads", file=file, line=1)
                    head = told
                elif "rows" in told:
                    end = told["rows"]
                elif told["table"] not in TABLES:
                    raise InputError(f"there is no table {told['table']!r}", file=file, line=number)
                else:
                    rows[told["table"]].append(told["row"])
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"is no line of a dump: {error}", file=file, line=number) from error
    if not head:
        raise InputError("is empty", file=file)
    # The first line and the last one are no rows.
    if end != number - 2:
        ends = "ends without the line that counts its rows" if end is None else f"has {number - 2} rows of {end}"
        raise InputError(f"is not whole: it {ends}", file=file, line=number)
    return Dump(head["revision"], head["compacted"], dict(rows))


def redecide(dump: Dump) -> Compared:
    """Audit a dump, and have the simulator's scheduler answer every question that was asked, as it was asked."""
    history = _History(dump)
    told = Compared(findings=audit(dump.read, FLOWS))
    schedulers: dict[str, tuple[SchedulerPlacer, _View, dict[str, Policy]]] = {}
    for row in sorted(dump.read("decision"), key=lambda row: (row["engine"], row["number"])):
        if row["seen"] < history.known_after:
            told.skipped += 1
            continue
        if row["engine"] not in schedulers:
            then: dict[str, Policy] = {}
            placer = SchedulerPlacer(load(row["policy"]), chosen=partial(_by_project, then))
            schedulers[row["engine"]] = (placer, _View(history), then)
        _compare(row, *schedulers[row["engine"]], told)
    told.servers = len(schedulers)
    return told


def _by_project(policies: Mapping[str, Policy], place: Place) -> Policy:
    return policies[place.project]


def _compare(row: Row, placer: SchedulerPlacer, view: "_View", policies: dict[str, Policy], told: Compared) -> None:
    asked = orjson.loads(row["answers"])
    policies |= {one.get("project", ""): load(one.get("policy", row["policy"])) for one in asked}
    view.move_to(row["seen"])
    placer.draw_from(row["drawn"])
    answers = placer.decide([_question(one) for one in asked], view.nodes)
    told.calls += 1
    for one, answer in zip(asked, answers, strict=True):
        now: Any = dict(answer.reasons) if not isinstance(answer, Decided) else _place(answer)
        then: Any = one["reasons"] if "reasons" in one else [one["node"], one["version"], one["devices"]]
        told.decisions += "node" in one
        if now != then:
            where = f"{row['engine']}, call {row['number']}, task {one['task']}"
            told.differing.append(f"{where}: {then} then, {now} now")


def _place(answer: Decided) -> list[Any]:
    return [answer.node, answer.version, dict(answer.devices)]


def _question(one: dict[str, Any]) -> Question:
    # Rows of servers that had one policy for all say neither kind nor project.
    of = one.get("kind", ""), one.get("project", "")
    place = Place(one["guest"], one["spec"], one["role"], one["only"], tuple(one["never"]), *of)
    return Question(one["task"], one["step"], place)


class _History:
    """What every node was at every revision."""

    def __init__(self, dump: Dump) -> None:
        self.changes: list[tuple[int, str, Row | None]] = []
        changed = set()
        for row in dump.read("change"):
            (name,) = orjson.loads(row["row_key"])
            changed.add(name)
            self.changes.append((row["revision"], name, None if row["data"] is None else orjson.loads(row["data"])))
        # What has not changed since the log begins is as it is now; what has was something that nobody knows any more.
        still = [row for row in dump.read("node") if row["name"] not in changed]
        self.changes += [(row["revision"], row["name"], row) for row in still]
        self.changes.sort(key=lambda change: change[0])
        self.known_after = dump.compacted if dump.compacted > 1 else 0


class _View:
    """The nodes as they were at one revision, which only grows."""

    def __init__(self, history: _History) -> None:
        self._history, self._at = history, 0
        self._rows: dict[str, Row] = {}

    def move_to(self, revision: int) -> None:
        """The nodes are as they were then."""
        changes = self._history.changes
        while self._at < len(changes) and changes[self._at][0] <= revision:
            _, name, row = changes[self._at]
            if row is None:
                self._rows.pop(name, None)
            else:
                self._rows[name] = row
            self._at += 1

    def nodes(self, revision: int, names: Collection[str]) -> Sequence[Row]:
        """As `gpve.world.store.Store.nodes`."""
        rows = self._rows.values()
        found = [row for row in rows if row["revision"] > revision or row["name"] in names]
        return sorted(found, key=lambda row: str(row["name"]))
