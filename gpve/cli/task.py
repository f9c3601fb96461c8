"""``gpve task`` and ``gpve audit``: what the task engine does, by a server, or over the store when no server is up."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail, finite
from gpve.cli.output import (
    OVER,
    AsJson,
    ContextName,
    Form,
    OnlyProject,
    Output,
    age,
    cluster,
    form_of,
    rows,
    show,
    show_one,
    when,
)

if TYPE_CHECKING:
    from gpve.client import Client, Task

task_app = typer.Typer(no_args_is_help=True, help="List, show, watch, cancel and resume tasks.")

Database = Annotated[
    str,
    typer.Option(
        help="Look into this store instead, as when no server runs: sqlite:///FILE or mysql+pymysql://USER:PASSWORD@HOST/NAME.",
        envvar="GPVE_DATABASE",
    ),
]
Number = Annotated[int, typer.Argument(help="The task.", min=1, max=1 << 53)]


class _Store:
    """Tasks as the store has them."""

    def __init__(self, address: str) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        from gpve.model.errors import InputError
        from gpve.store.database import check, connect
        from gpve.store.sql import SqlStore

        if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).is_file():
            raise InputError(f"there is no database {address!r}; say --database, or set GPVE_DATABASE")
        try:
            database = connect(address)
            check(database)
        except (SQLAlchemyError, ImportError, ValueError, InputError) as error:
            raise InputError(str(error).splitlines()[0], column="--database") from error
        self.store = SqlStore(database)

    def tasks(self, limit: int, **equal: str | None) -> list[dict[str, Any]]:
        """The newest first."""
        wanted = {name: value for name, value in equal.items() if value is not None}
        return self.store.rows("task", newest=True, limit=limit, **wanted)

    def task(self, number: int) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
        """Its row, its log, its locks."""
        found = self.store.rows("task", id=number)
        if not found:
            fail(f"no task {number}; gpve task list shows them")
        locks = self.store.rows("lock", task=number)
        told = [f"{lock['resource']}{' (shared)' if lock['shared'] else ''}" for lock in locks]
        return found[0], self.store.rows("event", task=number), told

    def cancel(self, number: int, why: str) -> dict[str, Any]:
        """Ask for its end; its row."""
        from gpve.tasks.ledger import Work
        from gpve.tasks.submit import cancel as ask

        # A server knows by the token who asks.
        why = why or f"by {os.environ.get('USER') or 'somebody'}"
        _answer(self.store.transact([Work(lambda tx: ask(tx, number, why))]))
        return self.task(number)[0]

    def resume(self, number: int) -> dict[str, Any]:
        """Give it a new deadline; its row."""
        from gpve.tasks.ledger import Work
        from gpve.tasks.submit import resume as again

        _answer(self.store.transact([Work(lambda tx: again(tx, number))]))
        return self.task(number)[0]


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

    def cancel(self, number: int, why: str) -> dict[str, Any]:
        """As `_Store.cancel`."""
        return _row(self.client.cancel(number, why))

    def resume(self, number: int) -> dict[str, Any]:
        """As `_Store.resume`."""
        return _row(self.client.resume(number))


def _row(task: "Task") -> dict[str, Any]:
    told = {name: value for name, value in asdict(task).items() if name not in ("log", "body")}
    body = None if task.body is None else json.dumps(task.body)
    return told | {"body": body, "poison": task.reason if task.status == "unreadable" else None}


@contextmanager
def _source(database: str, context: str | None) -> "Iterator[_Store | _Server]":
    """The store, if one is named, else a context's cluster."""
    if database and context is None:
        yield _Store(database)
        return
    with cluster(context) as client:
        yield _Server(client)


@task_app.command("list")
def list_tasks(
    database: Database = "",
    status: Annotated[str | None, typer.Option(help="Only tasks of this status, as done or stuck.")] = None,
    project: OnlyProject = None,
    limit: Annotated[int, typer.Option(min=1, max=1 << 31, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Tasks, the newest first.

    Example: gpve task list --status stuck
    """
    with _source(database, context) as source:
        found = source.tasks(limit, status=status, project=project)
    lines = [
        (
            str(row["id"]),
            row["flow"],
            row["target"] or "",
            _status(row),
            age(row["submitted_at"]),
            row["actor"],
            _why(row),
        )
        for row in found
    ]
    header = ("task", "flow", "on", "status", "age", "by", "why")
    show(found, form_of(output, as_json), lambda: rows("", lines, header, "no tasks"))


def _status(row: dict[str, Any]) -> str:
    if row["poison"]:
        return "unreadable"
    if row["status"] in OVER or not row["progress"]:
        return str(row["status"])
    return f"{row['status']} {100 * row['progress']:.0f} %"


def _why(row: dict[str, Any]) -> str:
    return str(row["poison"] or row["reason"] or row["cancel"] or "")


@task_app.command("show")
def show_task(
    number: Number,
    database: Database = "",
    as_json: AsJson = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """A task and its log. A log that cannot be read here (of a newer version, or damaged) is shown as it is.

    Example: gpve task show 57
    """
    with _source(database, context) as source:
        row, events, locks = source.task(number)

    def table() -> None:
        version = f" (version {row['version']})" if "version" in row else ""
        typer.echo(f"task {number}: {row['flow']}{version} on {row['target']}, {row['status']}")
        typer.echo(f"  by       {row['actor']}, {when(row['submitted_at'])} ({age(row['submitted_at'])} ago)")
        if row["closed_at"] is not None:
            typer.echo(f"  over     {when(row['closed_at'])}")
        for name in ("project", "body", "reason", "poison", "cancel", "owner"):
            if row.get(name):
                typer.echo(f"  {name:8s} {row[name]}")
        for lock in locks:
            typer.echo(f"  lock     {lock}")
        for event in events:
            typer.echo(_line(event))

    show({**row, "events": events, "locks": locks}, form_of(output, as_json), table)


def _line(event: dict[str, Any]) -> str:
    data = event["data"] if event["data"] != "{}" else ""
    return f"  {when(event['at'])}  {event['kind']:10s} {event['step']:12s} {data}".rstrip()


@task_app.command()
def watch(
    number: Number,
    database: Database = "",
    every: Annotated[float, typer.Option(min=0.05, max=3600.0, help="Seconds between looks.", callback=finite)] = 0.5,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Follow a task to its end; with -o json: a line of JSON for each event. Exit code 0: done; 1: undone; 3: stuck.

    Example: gpve task watch 57
    """
    with _source(database, context) as source:
        seen = 0
        while True:
            row, events, _ = source.task(number)
            for event in events[seen:]:
                show_one(event, output, partial(_print_line, event))
            seen = len(events)
            if row["poison"] is not None or row["status"] in OVER:
                raise typer.Exit(OVER.get(row["status"], 3))
            time.sleep(every)


def _print_line(event: dict[str, Any]) -> None:
    typer.echo(_line(event))


@task_app.command()
def cancel(
    number: Number,
    database: Database = "",
    reason: Annotated[str, typer.Option(help="What the log shall say.")] = "",
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Ask for the end of a task: what it did is undone. Refused once its commit point is behind.

    Example: gpve task cancel 57 --reason "wrong image"
    """
    with _source(database, context) as source:
        row = source.cancel(number, reason)
    show(row, output, lambda: typer.echo(f"task {number} will be undone; gpve task watch {number} shows how"))


@task_app.command()
def resume(number: Number, database: Database = "", output: Output = Form.TABLE, context: ContextName = None) -> None:
    """Give a stuck task a new deadline. It tries the same again; nothing else is altered.

    Example: gpve task resume 57
    """
    with _source(database, context) as source:
        row = source.resume(number)
    show(row, output, lambda: typer.echo(f"task {number} goes on; gpve task watch {number} shows how"))


def _answer(results: list[Any]) -> None:
    for result in results:
        if isinstance(result, Exception):
            fail(str(result))


def audit(
    database: Database = "",
    sockets: Annotated[
        Path | None,
        typer.Option(help="With --database: a folder with NODE.sock of each node, to look at them as well."),
    ] = None,
    as_json: AsJson = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Check every invariant that can be read off the store, and off the nodes. Exit code 1 if something is wrong.

    Example: gpve audit
    """
    if sockets is not None and not database:
        fail("--sockets goes with --database: a server asks its nodes itself")
    with _source(database, context) as source:
        findings = _audit_store(source, sockets) if isinstance(source, _Store) else list(source.client.audit())

    def table() -> None:
        for finding in findings:
            typer.echo(finding)
        typer.echo(f"{len(findings)} findings" if findings else "nothing is wrong")

    show(findings, form_of(output, as_json), table)
    if findings:
        raise typer.Exit(1)


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
