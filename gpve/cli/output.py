"""What commands that talk to a cluster share: the output's form, the context, waiting for tasks."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail, print_table

if TYPE_CHECKING:
    from gpve.client import Client, Task

OVER = {"done": 0, "undone": 1, "stuck": 3, "unreadable": 3}
"""Exit codes of a command that waits for a task."""


class Form(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Form, typer.Option("-o", "--output", help="How to print.")]
ContextName = Annotated[str | None, typer.Option("--context", help="Of which cluster; default: the current one.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end of the task, and show how far it is.")]
Project = Annotated[str | None, typer.Option(help="The project; default: default.")]


@contextmanager
def cluster(context: str | None) -> "Iterator[Client]":
    """A client; what the server refuses ends the command with its sentence."""
    from gpve.client import ApiError, connect

    try:
        with connect(context) as client:
            yield client
    except ApiError as error:
        more = (
            f" (allowed now: {', '.join(error.allowed)})" if error.allowed and "allowed now" not in str(error) else ""
        )
        fail(f"{error}{more}", 1 if error.status in (404, 409, 412) else 2)


def show(value: Any, form: Form, table: Callable[[], None]) -> None:
    """Print a value: as it is for machines, by ``table`` for people."""
    if form is Form.TABLE:
        table()
        return
    plain = _plain(value)
    if form is Form.JSON:
        typer.echo(json.dumps(plain, indent=2))
        return
    import yaml

    typer.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def rows(title: str, found: Sequence[tuple[str, ...]], header: tuple[str, ...], nothing: str) -> None:
    """A table, or that there is nothing."""
    if found:
        print_table(title, found, header)
    else:
        typer.echo(nothing)


def told(client: "Client", task: "Task", form: Form, wait: bool) -> None:
    """What became of a request: its task, or, with ``wait``, how that ended; the exit code says it too."""
    if wait:
        task = _waited(client, task)

    def line() -> None:
        why = f": {task.reason}" if task.reason else ""
        typer.echo(f"task {task.id} ({task.flow} of {task.target}) is {task.status}{why}")
        if not task.over:
            typer.echo(f"gpve task watch {task.id} follows it")

    show(task, form, line)
    if wait and OVER.get(task.status, 0):
        raise typer.Exit(OVER[task.status])


def _waited(client: "Client", task: "Task") -> "Task":
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        return client.wait(task)
    with console.status(f"task {task.id}") as bar:

        def progress(now: "Task") -> None:
            why = f", {now.reason}" if now.reason else ""
            bar.update(f"task {now.id}: {now.status} {100 * now.progress:.0f} % {now.step or ''}{why}")

        return client.wait(task, progress)


def amount(text: str, unit: str) -> int:
    """MiB of ``512M`` or ``4G``, GiB of ``20G`` or ``1T``; a plain number is in ``unit`` already."""
    from gpve.model.errors import InputError

    sizes = {"MiB": {"M": 1, "G": 1024, "T": 1024**2}, "GiB": {"G": 1, "T": 1024}}[unit]
    number, suffix = (text[:-1], text[-1].upper()) if text and not text[-1].isdigit() else (text, "")
    if not number.isdigit() or (suffix and suffix not in sizes):
        raise InputError(f"{text!r} is no amount; say a number of {unit}, or one with {' or '.join(sizes)}")
    return int(number) * sizes.get(suffix, 1)
