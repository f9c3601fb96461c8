"""Orders given by hand: which guests arrive when, and which node wins a tie."""

import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from gpve.model.columns import FOREVER, Nodes
from gpve.model.errors import InputError
from gpve_sim.trace import Trace

_COPY = re.compile(r"-tuned-\d+$")


def read_names(path: Path) -> list[str]:
    """One name a line, .gz as it is; empty lines do not count."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as a list of names: {error}", file=path) from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError("holds no names", file=path)
    return names


def arrive_in_order(trace: Trace, names: list[str], file: Path) -> Trace:
    """The guests of ``names`` in that order, one second apart, none of which departs.

    ``X-tuned-N`` is a copy of guest X under that name. Raises `InputError` for a name that the trace does not have,
    or that comes twice.
    """
    rows = {name: row for row, name in enumerate(trace.guests.ids.to_pylist())}
    taken = np.empty(len(names), dtype=np.int64)
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        row = rows.get(name, rows.get(_COPY.sub("", name)))
        if row is None:
            raise InputError(f"the trace has no guest {name!r}", file=file, line=i + 1)
        if name in seen:
            raise InputError(f"guest {name!r} comes twice, first in line {seen[name]}", file=file, line=i + 1)
        seen[name] = i + 1
        taken[i] = row
    guests = replace(
        trace.guests.take(taken),
        ids=pa.array(names, pa.string()),
        arrival_s=np.arange(len(names), dtype=np.float64),
        departure_s=np.full(len(names), FOREVER),
    )
    return replace(trace, guests=guests, usage=None, departures=False)


def order_nodes(nodes: Nodes, names: list[str], file: Path) -> Nodes:
    """The nodes of ``names`` in that order, which decides between equal scores; every node must come once."""
    rows = {name: row for row, name in enumerate(nodes.names)}
    taken: dict[str, int] = {}
    for i, name in enumerate(names):
        if name not in rows:
            raise InputError(f"the cluster has no node {name!r}", file=file, line=i + 1)
        if name in taken:
            raise InputError(f"node {name!r} comes twice", file=file, line=i + 1)
        taken[name] = rows[name]
    missing = rows.keys() - taken.keys()
    if missing:
        raise InputError(f"{len(missing)} nodes of the cluster are missing, among them {min(missing)!r}", file=file)
    return nodes.take(list(taken.values()))
