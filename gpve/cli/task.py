"""``gpve task`` and ``gpve audit``: what the task engine does, over the store that servers share."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail, print_json, print_table

if TYPE_CHECKING:
    from gpve.store.sql import SqlStore

task_app = typer.Typer(no_args_is_help=True, help="List, show, watch, cancel and resume tasks.")

Database = Annotated[
    str,
    typer.Option(help="sqlite:///FILE or mysql+pymysql://USER:PASSWORD@HOST/NAME.", envvar="GPVE_DATABASE"),
]
DEFAULT = "sqlite:///gpve.db"
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
OVER = {"done": 0, "undone": 1, "stuck": 3}
"""Exit codes of ``watch``."""


def _store(address: str) -> "SqlStore":
    from gpve.model.errors import InputError
    from gpve.store.database import check, connect
    from gpve.store.sql import SqlStore

    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        raise InputError(f"there is no database {address!r}; say --database, or set GPVE_DATABASE")
    database = connect(address)
    check(database)
    return SqlStore(database)


def _when(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _task(store: "SqlStore", number: int) -> dict[str, Any]:
    rows = store.rows("task", id=number)
    if not rows:
        fail(f"no task {number}; gpve task list shows them")
    return rows[0]


@task_app.command("list")
def list_tasks(
    database: Database = DEFAULT,
    status: Annotated[str | None, typer.Option(help="Only tasks of this status, as done or stuck.")] = None,
    project: Annotated[str | None, typer.Option(help="Only tasks of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Tasks, the newest first.

    Example: gpve task list --database sqlite:///gpve.db --status stuck
    """
    equal = {name: value for name, value in (("status", status), ("project", project)) if value is not None}
    rows = _store(database).rows("task", newest=True, limit=limit, **equal)
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("no tasks")
        return
    told = [(str(row["id"]), row["flow"], row["target"] or "", _status(row), _why(row)) for row in rows]
    print_table("", told, ("task", "flow", "on", "status", "why"))


def _status(row: dict[str, Any]) -> str:
    if row["poison"]:
        return "unreadable"
    if row["status"] in OVER or not row["progress"]:
        return str(row["status"])
    return f"{row['status']} {100 * row['progress']:.0f} %"


def _why(row: dict[str, Any]) -> str:
    return str(row["poison"] or row["reason"] or row["cancel"] or "")


@task_app.command()
def show(
    number: Annotated[int, typer.Argument(help="The task.")], database: Database = DEFAULT, as_json: AsJson = False
) -> None:
    """A task and its log. A log that cannot be read here (of a newer version, or damaged) is shown as it is.

    Example: gpve task show 57 --database sqlite:///gpve.db
    """
    store = _store(database)
    row = _task(store, number)
    events = store.rows("event", task=number)
    if as_json:
        print_json({**row, "events": events, "locks": store.rows("lock", task=number)})
        return
    print(f"task {number}: {row['flow']} (version {row['version']}) on {row['target']}, {row['status']}")
    for name in ("body", "reason", "poison", "cancel", "owner"):
        if row[name]:
            print(f"  {name:8s} {row[name]}")
    for lock in store.rows("lock", task=number):
        print(f"  lock     {lock['resource']}{' (shared)' if lock['shared'] else ''}")
    for event in events:
        print(_line(event))


def _line(event: dict[str, Any]) -> str:
    data = event["data"] if event["data"] != "{}" else ""
    return f"  {_when(event['at'])}  {event['kind']:10s} {event['step']:12s} {data}".rstrip()


@task_app.command()
def watch(
    number: Annotated[int, typer.Argument(help="The task.")],
    database: Database = DEFAULT,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between looks.")] = 0.5,
) -> None:
    """Follow a task to its end. Exit code 0: done; 1: undone; 3: stuck.

    Example: gpve task watch 57 --database sqlite:///gpve.db
    """
    store = _store(database)
    for event in _follow(store, number, every):
        print(_line(event), flush=True)
    raise typer.Exit(OVER[_task(store, number)["status"]])


def _follow(store: "SqlStore", number: int, every: float) -> Iterator[dict[str, Any]]:
    seen = 0
    while True:
        over = _task(store, number)["status"] in OVER
        events = store.rows("event", task=number)
        yield from events[seen:]
        seen = len(events)
        if over:
            return
        time.sleep(every)


@task_app.command()
def cancel(
    number: Annotated[int, typer.Argument(help="The task.")],
    database: Database = DEFAULT,
    reason: Annotated[str, typer.Option(help="What the log shall say.")] = "",
) -> None:
    """Ask for the end of a task: what it did is undone. Refused once its commit point is behind.

    Example: gpve task cancel 57 --reason "wrong image" --database sqlite:///gpve.db
    """
    from gpve.tasks.ledger import Work
    from gpve.tasks.submit import cancel as ask

    why = reason or f"by {os.environ.get('USER') or 'somebody'}"
    _answer(_store(database).transact([Work(lambda tx: ask(tx, number, why))]))
    print(f"task {number} will be undone; gpve task watch {number} shows how")


@task_app.command()
def resume(number: Annotated[int, typer.Argument(help="The task.")], database: Database = DEFAULT) -> None:
    """Give a stuck task a new deadline. It tries the same again; nothing else is altered.

    Example: gpve task resume 57 --database sqlite:///gpve.db
    """
    from gpve.tasks.ledger import Work
    from gpve.tasks.submit import resume as again

    _answer(_store(database).transact([Work(lambda tx: again(tx, number))]))
    print(f"task {number} goes on; gpve task watch {number} shows how")


def _answer(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, Exception):
            fail(str(result))


def audit(
    database: Database = DEFAULT,
    sockets: Annotated[
        Path | None, typer.Option(help="A folder with NODE.sock of each node, to look at the nodes as well.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every invariant that can be read off the store, and off the nodes. Exit code 1 if something is wrong.

    Example: gpve audit --database sqlite:///gpve.db
    """
    from gpve.engine.inventory import inventory
    from gpve.tasks.audit import audit as look
    from gpve.tasks.flows import FLOWS

    store = _store(database)
    things = None
    if sockets is not None:
        things = inventory({path.stem: path for path in sorted(sockets.glob("*.sock"))})
        if not things:
            fail(f"no node answers in {sockets}")
    findings = look(store.rows, FLOWS, things)
    if as_json:
        print(json.dumps(findings))
    else:
        for finding in findings:
            print(finding)
        print(f"{len(findings)} findings" if findings else "nothing is wrong")
    if findings:
        raise typer.Exit(1)
