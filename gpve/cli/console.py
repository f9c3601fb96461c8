"""What commands print with: tables and progress for people, JSON for machines, one sentence for errors."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

PATIENCE_S = 1.0
"""What takes longer shows a progress bar."""


def fail(sentence: str, code: int = 2) -> NoReturn:
    """Say what is wrong on standard error, and end."""
    sys.stderr.write(f"gpve: {sentence}\n")
    sys.exit(code)


def finite(value: float | None) -> float | None:
    """A callback of options that are numbers. Raises `InputError` for what is none."""
    from gpve.model.errors import InputError

    if value is not None and not math.isfinite(value):
        raise InputError(f"{value} is no number here; one such as 1.5 is wanted")
    return value


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that shows a bar on a terminal's standard error once the work takes longer than
    `PATIENCE_S`."""
    started = time.monotonic()
    bar: Any = None
    task: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar, task
        if bar is None:
            if time.monotonic() - started < PATIENCE_S:
                return
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            console = Console(stderr=True)
            bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
            bar.start()
            task = bar.add_task(label, total=total)
        bar.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()


def print_table(title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] | None = None) -> None:
    """A table on standard output; numbers lie to the right, and what the first of several columns names is whole."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=header is not None)
    names = header or ("",) * len(rows[0])
    for i, name in enumerate(names):
        words = header is not None and any(row[i][:1].isalpha() for row in rows)
        table.add_column(name, justify="left" if i == 0 or words else "right", no_wrap=i == 0 and len(names) > 1)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if title:
        console.print(Text(title, style="italic"))
    console.print(table)
