"""What commands that talk to a cluster share: the output's form, the context, waiting for tasks."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import fail, print_table

if TYPE_CHECKING:
    from gpve.client import ApiError, Client, Task

OVER = {"done": 0, "undone": 1, "stuck": 3, "unreadable": 3}
"""Exit codes of a command that waits for a task."""


class Form(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Form, typer.Option("-o", "--output", help="How to print.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
ContextName = Annotated[str | None, typer.Option("--context", help="Of which cluster; default: the current one.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end of the task, and show how far it is.")]
Project = Annotated[str | None, typer.Option(help="The project; default: default.")]
OnlyProject = Annotated[str | None, typer.Option(help="Only those of this project; default: of all.")]
OfProject = Annotated[str | None, typer.Option(help="Whose guest is meant, where several projects have one so named.")]


@contextmanager
def cluster(context: str | None, code: int | None = None) -> "Iterator[Client]":
    """A client; what the server refuses ends the command with its sentence, and with ``code`` if it is given."""
    from gpve.client import ApiError, connect
    from gpve.model.errors import InputError

    try:
        with connect(context, _notice()) as client:
            yield client
    except ApiError as error:
        more = (
            f" (allowed now: {', '.join(error.allowed)})" if error.allowed and "allowed now" not in str(error) else ""
        )
        fail(f"{error}{more}", code or (1 if error.status in (404, 409, 412) else 2))
    except UnicodeEncodeError as error:
        fail(f"{error.object!a} is no text: UTF-8 is wanted", code or 2)
    except InputError as error:
        fail(str(error), code or 2)


def _notice() -> "Callable[[ApiError], None]":
    """Says on standard error what is waited for, once, so that no command is silent for long."""
    said: set[str] = set()

    def notice(problem: "ApiError") -> None:
        if str(problem) not in said:
            said.add(str(problem))
            sys.stderr.write(f"gpve: {problem}; trying again\n")
            sys.stderr.flush()

    return notice


def form_of(output: Form, as_json: bool) -> Form:
    """How to print, where --json may be said as well."""
    return Form.JSON if as_json else output


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


def show_one(value: Any, form: Form, line: Callable[[], None]) -> None:
    """Print one of a stream of values: a line of JSON, a document of YAML, or a line for people."""
    if form is Form.JSON:
        typer.echo(json.dumps(_plain(value)))
    else:
        if form is Form.YAML:
            typer.echo("---")
        show(value, form, line)
    sys.stdout.flush()


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
    """The task when it is over; on a terminal a line says how far it is, elsewhere a line for each change does."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        said = ""

        def line(now: "Task") -> None:
            nonlocal said
            if _progress(now) != said:
                said = _progress(now)
                sys.stderr.write(f"{said}\n")
                sys.stderr.flush()

        return client.wait(task, line)
    with console.status(f"task {task.id}") as bar:
        return client.wait(task, lambda now: bar.update(_progress(now)))


def _progress(task: "Task") -> str:
    # A line is a line, also where a reason has several.
    why = f", {' '.join(task.reason.split())}" if task.reason else ""
    return f"task {task.id}: {task.status} {100 * task.progress:.0f} % {task.step or ''}".rstrip() + why


def when(seconds: float | None) -> str:
    """A time, in UTC."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def span(seconds: float) -> str:
    """A span of time in its largest unit: 42s, 7m, 5h, 3d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def age(seconds: float) -> str:
    """How long ago a time was."""
    return span(time.time() - seconds)


def amount(text: str, unit: str) -> int:
    """MiB of ``512M`` or ``4G``, GiB of ``20G`` or ``1T``; a plain number is in ``unit`` already."""
    from gpve.model.errors import InputError

    sizes = {"MiB": {"M": 1, "G": 1024, "T": 1024**2}, "GiB": {"G": 1, "T": 1024}}[unit]
    number, suffix = (text[:-1], text[-1].upper()) if text and not text[-1].isdigit() else (text, "")
    whole = number.isascii() and number.isdigit() and len(number) <= 12
    if not whole or (suffix and suffix not in sizes):
        raise InputError(f"{text!r} is no amount; say a number of {unit}, or one with {' or '.join(sizes)}")
    return int(number) * sizes.get(suffix, 1)


def size_of(mib: int) -> str:
    """An amount of memory as it is said: 512M, 4G."""
    return f"{mib // 1024}G" if mib and mib % 1024 == 0 else f"{mib}M"
