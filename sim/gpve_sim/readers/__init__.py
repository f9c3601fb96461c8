"""Readers of traces, one file a format: ``read(path, *, seed, nodes) -> Trace``.

`READERS` names them in the order in which they are asked whether they recognise a file. Each module has NAME,
SUMMARY, ``recognises(path, columns)`` and ``read``; it is imported when it is asked.
"""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from gpve.model import InputError, Nodes
from gpve_sim.trace import Trace

READERS = {
    "schema": "gpve_sim.readers.schema",
    "openb": "gpve_sim.readers.openb",
    "alibaba-dlrm": "gpve_sim.readers.alibaba_dlrm",
    "azure-vm": "gpve_sim.readers.azure_vm",
    "opendc": "gpve_sim.readers.opendc",
    "agents": "gpve_sim.readers.agents",
    "kubernetes": "gpve_sim.readers.kubernetes",
}
"""Module of each reader by its name."""


class Reader(Protocol):
    """What a module of this package offers."""

    NAME: str
    SUMMARY: str

    def recognises(self, path: Path, columns: tuple[str, ...]) -> bool:
        """Whether the file or folder is of this format; ``columns`` is empty for what is no table."""

    def read(self, path: Path, *, seed: int = 0, nodes: Nodes | None = None) -> Trace:
        """The trace. With ``nodes`` no default cluster is made. Raises `InputError`."""


def reader_named(name: str) -> Reader:
    """The reader of this name. Raises `InputError` that lists the names."""
    if name not in READERS:
        raise InputError(f"unknown reader {name!r}; known: {', '.join(READERS)}")
    return cast(Reader, import_module(READERS[name]))


def reader_for(path: Path) -> Reader:
    """The reader that recognises ``path``. Raises `InputError` that lists them."""
    from gpve_sim.readers.content import check_file
    from gpve_sim.readers.table import header_of

    columns: tuple[str, ...] = ()
    if not path.is_dir():
        check_file(path)
        if path.name.removesuffix(".gz").endswith((".csv", ".parquet")):
            columns = header_of(path)
    for name in READERS:
        reader = reader_named(name)
        if reader.recognises(path, columns):
            return reader
    what = "is a directory, and no reader" if path.is_dir() else "no reader"
    seen = f" (its columns: {', '.join(columns)})" if columns else ""
    raise InputError(
        f"{what} recognises this{seen}; readers: {', '.join(READERS)}, or name your columns with --mapping",
        path,
    )
