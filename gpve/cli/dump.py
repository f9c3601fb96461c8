"""``gpve dump``: a cluster as a file."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer

from gpve.cli.console import fail
from gpve.cli.output import ContextName, Form, Output, cluster, show

BEGIN = b'{"gpve_dump":'


def dump(
    file: Annotated[Path, typer.Argument(help="Where to write it, for its owner alone; - is standard output.")],
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Write what the simulator needs to decide again what this cluster decided: nodes, tasks, decisions.

    `gpve redecide FILE` does that, and compares. A file that is there already is replaced only if it is a dump. Tokens
    and keys of the cluster are not in it. Names and specifications are, and with them the environments of agents: what
    secrets somebody put there are in the file.

    Example: gpve dump cluster.jsonl
    """
    lines, last = 0, ""
    with cluster(context) as client, _opened(file) as out:
        for line in client.dump():
            out.write(line + "\n")
            lines, last = lines + 1, line
    if not last.startswith('{"rows":'):
        fail(f"the server broke off after {lines} lines: {file} is not whole", 1)
    if str(file) != "-":
        said = f"{file}: {lines} lines; gpve redecide {file} decides again"
        show({"file": str(file), "lines": lines}, output, lambda: typer.echo(said))


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    if str(file) == "-":
        yield sys.stdout
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as out:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            if os.pread(descriptor, len(BEGIN), 0) not in (b"", BEGIN):
                fail(f"{file} is there already, and is no dump: it would be lost")
            out.truncate(0)
            # Also where there was a file that others may read.
            os.fchmod(descriptor, 0o600)
        yield out
