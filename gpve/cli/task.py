"""``gpve task`` and ``gpve audit``: what the task engine does, by a server, or over the store when no server is up."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail, print_json, print_table
from gpve.cli.output import cluster

if TYPE_CHECKING:
    from gpve.client import Client, Task

task_app = typer.Typer(no_args_is_help=True, help="List, show, watch, cancel and resume tasks.")

Database = Annotated[
    str,
    typer.Option(
        help="Look into this store instead of asking a server: sqlite:///FILE or mysql+pymysql://USER:PASSWORD@HOST/NAME.",
        envvar="GPVE_DATABASE",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
OVER = {"done": 0, "undone": 1, "stuck": 3}
"""Exit codes of ``watch``."""


class _Store:
    """Tasks as the store has them."""

    def __init__(self, address: str) -> None:
        from gpve.model.errors import InputError
        from gpve.store.database import check, connect
        from gpve.store.sql import SqlStore

        if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
            raise InputError(f"there is no database {address!r}; say --database, or set GPVE_DATABASE")
        database = connect(address)
        check(database)
        self.store = SqlStore(database)

    def tasks(self, limit: int, **equal: str | None) -> list[dict[str, Any]]:
        """The newest first."""
        wanted = {name: value for name, value in equal.items() if value is not None}
        return self.store.rows("task", newest=True, limit=limit, **wanted)

    def task(self, number: int) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
        """Its row, its log, its locks."""
        rows = self.store.rows("task", id=number)
        if not rows:
            fail(f"no task {number}; gpve task list shows them")
        locks = self.store.rows("lock", task=number)
        told = [f"{lock['resource']}{' (shared)' if lock['shared'] else ''}" for lock in locks]
        return rows[0], self.store.rows("event", task=number), told

    def cancel(self, number: int, why: str) -> None:
        """Ask for its end."""
        from gpve.tasks.ledger import Work
        from gpve.tasks.submit import cancel as ask

        _answer(self.store.transact([Work(lambda tx: ask(tx, number, why))]))

    def resume(self, number: int) -> None:
        """Give it a new deadline."""
        from gpve.tasks.ledger import Work
        from gpve.tasks.submit import resume as again

        _answer(self.store.transact([Work(lambda tx: again(tx, number))]))


class _Server:
    """Tasks as a server tells them."""

    def __init__(self, client: "Client") -> None:
        self.client = client

    def tasks(self, limit: int, **equal: str | None) -> list[dict[str, Any]]:
        """As `_Store.tasks`."""
        return [_row(task) for task in self.client.tasks(most=limit, **equal)]

    def task(self, number: int) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
        """As `_Store.task`."""
        task = self.client.task(number)
        log = [{**event, "data": json.dumps(event["data"], separators=(",", ":"))} for event in task.log]
        return _row(task), log, []

    def cancel(self, number: int, why: str) -> None:
        """As `_Store.cancel`."""
        self.client.cancel(number, why)

    def resume(self, number: int) -> None:
        """As `_Store.resume`."""
        self.client.resume(number)


def _row(task: "Task") -> dict[str, Any]:
    told = {name: value for name, value in asdict(task).items() if name not in ("log", "body")}
    body = None if task.body is None else json.dumps(task.body)
    return told | {"body": body, "poison": task.reason if task.status == "unreadable" else None}


@contextmanager
def _source(database: str) -> "Iterator[_Store | _Server]":
    """The store, if one is named, else the current context's cluster."""
    if database:
        yield _Store(database)
        return
    with cluster(None) as client:
        yield _Server(client)


def _when(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


@task_app.command("list")
def list_tasks(
    database: Database = "",
    status: Annotated[str | None, typer.Option(help="Only tasks of this status, as done or stuck.")] = None,
    project: Annotated[str | None, typer.Option(help="Only tasks of this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Tasks, the newest first.

    Example: gpve task list --database sqlite:///gpve.db --status stuck
    """
    with _source(database) as source:
        rows = source.tasks(limit, status=status, project=project)
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
    number: Annotated[int, typer.Argument(help="The task.")], database: Database = "", as_json: AsJson = False
) -> None:
    """A task and its log. A log that cannot be read here (of a newer version, or damaged) is shown as it is.

    Example: gpve task show 57 --database sqlite:///gpve.db
    """
    with _source(database) as source:
        row, events, locks = source.task(number)
    if as_json:
        print_json({**row, "events": events, "locks": locks})
        return
    version = f" (version {row['version']})" if "version" in row else ""
    print(f"task {number}: {row['flow']}{version} on {row['target']}, {row['status']}")
    for name in ("body", "reason", "poison", "cancel", "owner"):
        if row.get(name):
            print(f"  {name:8s} {row[name]}")
    for lock in locks:
        print(f"  lock     {lock}")
    for event in events:
        print(_line(event))


def _line(event: dict[str, Any]) -> str:
    data = event["data"] if event["data"] != "{}" else ""
    return f"  {_when(event['at'])}  {event['kind']:10s} {event['step']:12s} {data}".rstrip()


@task_app.command()
def watch(
    number: Annotated[int, typer.Argument(help="The task.")],
    database: Database = "",
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between looks.")] = 0.5,
) -> None:
    """Follow a task to its end. Exit code 0: done; 1: undone; 3: stuck.

    Example: gpve task watch 57 --database sqlite:///gpve.db
    """
    with _source(database) as source:
        seen = 0
        while True:
            row, events, _ = source.task(number)
            for event in events[seen:]:
                print(_line(event), flush=True)
            seen = len(events)
            if row["poison"] is not None or row["status"] in OVER:
                raise typer.Exit(OVER.get(row["status"], 3))
            time.sleep(every)


@task_app.command()
def cancel(
    number: Annotated[int, typer.Argument(help="The task.")],
    database: Database = "",
    reason: Annotated[str, typer.Option(help="What the log shall say.")] = "",
) -> None:
    """Ask for the end of a task: what it did is undone. Refused once its commit point is behind.

    Example: gpve task cancel 57 --reason "wrong image" --database sqlite:///gpve.db
    """
    why = reason or f"by {os.environ.get('USER') or 'somebody'}"
    with _source(database) as source:
        source.cancel(number, why)
    print(f"task {number} will be undone; gpve task watch {number} shows how")


@task_app.command()
def resume(number: Annotated[int, typer.Argument(help="The task.")], database: Database = "") -> None:
    """Give a stuck task a new deadline. It tries the same again; nothing else is altered.

    Example: gpve task resume 57 --database sqlite:///gpve.db
    """
    with _source(database) as source:
        source.resume(number)
    print(f"task {number} goes on; gpve task watch {number} shows how")


def _answer(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, Exception):
            fail(str(result))


def audit(
    database: Database = "",
    sockets: Annotated[
        Path | None, typer.Option(help="A folder with NODE.sock of each node, to look at the nodes as well.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every invariant that can be read off the store, and off the nodes. Exit code 1 if something is wrong.

    Example: gpve audit --database sqlite:///gpve.db
    """
    findings = _audit_store(_Store(database), sockets) if database else _audit_server()
    if as_json:
        print(json.dumps(findings))
    else:
        for finding in findings:
            print(finding)
        print(f"{len(findings)} findings" if findings else "nothing is wrong")
    if findings:
        raise typer.Exit(1)


def _audit_server() -> list[str]:
    with cluster(None) as client:
        return list(client.audit())


def _audit_store(source: _Store, sockets: Path | None) -> list[str]:
    from gpve.engine.inventory import inventory
    from gpve.tasks.audit import audit as look
    from gpve.tasks.flows import FLOWS

    things = None
    if sockets is not None:
        things = inventory({path.stem: path for path in sorted(sockets.glob("*.sock"))})
        if not things:
            fail(f"no node answers in {sockets}")
    return look(source.store.rows, FLOWS, things)
