"""A CSV or Parquet file with columns of one's own, read by a mapping onto the project's schema.

The mapping is a text, ``id=vm,kind="vm",arrival_s=start/1000,cpu_milli=cores*1000,memory_mib=gib*1024``, or a TOML
file whose table [columns] has the same entries (``cpu_milli = "cores*1000"``). On the right stands a column, perhaps
times or divided by a number, or, in quotes or as a bare number, one value for all guests. ``id`` may be left out
(guests are numbered), so may ``kind`` ("vm"), ``arrival_s`` (file order) and ``departure_s`` (never, or
``duration_s``: arrival plus that). CPU and memory are rounded up to whole units. Columns not named are not read.
"""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from gpve.model import FOREVER, Guests, InputError, Nodes
from gpve_sim.cluster_size import numbered_ids, sized_cluster
from gpve_sim.readers.schema import OPTIONAL, REQUIRED, guests_of
from gpve_sim.readers.table import Floats, Table, open_table
from gpve_sim.trace import Trace

NAME = "mapping"
SUMMARY = "a CSV or Parquet file with columns of your own"

NUMBERS = ("arrival_s", "departure_s", "duration_s", "deadline_s")
WHOLE = ("cpu_milli", "memory_mib", "gpu_count", "gpu_milli", "max_per_node", "priority")
TEXTS = ("id", "kind", "gpu_models", "group", "anti_affinity", "selector", "tolerations")
_TERM = re.compile(r"(?P<column>.+?)(?:\s*(?P<sign>[*/])\s*(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))?")


class Mapped(Table):
    """A table seen through a mapping: the columns of the schema, computed when they are asked for."""

    def __init__(self, table: Table, mapping: dict[str, str]) -> None:
        self.table = table
        self.mapping = dict(mapping)
        self.path, self.rows, self.sha256 = table.path, table.rows, table.sha256
        self.mapping.setdefault("id", "")
        self.mapping.setdefault("kind", '"vm"')
        self.mapping.setdefault("arrival_s", "")
        self.mapping.setdefault("departure_s", "")
        self.names = tuple(name for name in self.mapping if name != "duration_s")

    def column(self, name: str) -> pa.Array:
        text = self.mapping[name]
        if text == "":
            if name == "id":
                return numbered_ids("guest", self.rows)
            if name == "departure_s" and "duration_s" in self.mapping:
                return self._departures()
            values = np.arange(self.rows, dtype=np.float64) if name == "arrival_s" else np.full(self.rows, np.nan)
            return pa.array(values, from_pandas=True)
        if name in TEXTS:
            if (constant := _quoted(text)) is not None:
                return pa.DictionaryArray.from_arrays(np.zeros(self.rows, dtype=np.int32), pa.array([constant]))
            return self.table.column(self._known(text, name))
        values = self._numbers(name, FOREVER if name in ("departure_s", "deadline_s") else None)
        return pa.array(np.where(np.isinf(values), np.nan, values), from_pandas=True)

    def place(self, row: int) -> tuple[int | None, str]:
        return self.table.place(row)

    def error(self, problem: str, row: int | None = None, column: str | None = None) -> InputError:
        shown = self.mapping.get(column or "", "")
        return self.table.error(problem, row, f"{column} ({shown})" if column and shown else column)

    def _departures(self) -> pa.Array:
        end = self._numbers("arrival_s", None) if self.mapping["arrival_s"] else np.arange(self.rows, dtype=np.float64)
        end = end + self._numbers("duration_s", FOREVER)
        return pa.array(np.where(np.isinf(end), np.nan, end), from_pandas=True)

    def _numbers(self, name: str, empty: float | None) -> Floats:
        """(R,) the number of each row; rounded up where whole units are asked for."""
        text = self.mapping[name]
        try:
            return np.full(self.rows, float(text))
        except ValueError:
            pass
        term = _TERM.fullmatch(text)
        assert term, "the pattern takes any text but the empty one, which the parser refuses"
        column, sign, number = term["column"], term["sign"], float(term["number"] or 1)
        low = -np.inf if name == "priority" else 0.0
        optional = empty if empty is not None else (None if name in REQUIRED else 0.0)
        values = self.table.floats(self._known(column, name), low=low, empty=optional)
        if sign == "/" and number == 0:
            raise InputError(f"{name} is mapped to {text}, which divides by 0")
        if sign:
            values = values * number if sign == "*" else values / number
        # 0.1 cores times 1000 is a hair above 100 in floats: that hair is not rounded up.
        return np.ceil(np.round(values, 6)) if name in WHOLE else values

    def _known(self, column: str, name: str) -> str:
        if column not in self.table.names:
            raise self.table.error(f"{name} is mapped to {column!r}; columns here: {', '.join(self.table.names)}")
        return column


def read(path: Path, *, mapping: str, seed: int = 0, nodes: Nodes | None = None) -> Trace:
    """The guests of ``path`` under ``mapping``, a text or the path of a TOML file; ``seed`` is not used."""
    table = Mapped(open_table(path), parse(mapping))
    guests: Guests = guests_of(table)
    notes: tuple[str, ...] = (f"Columns are mapped: {', '.join(f'{k}={v}' for k, v in table.mapping.items() if v)}.",)
    if nodes is None:
        nodes, note = sized_cluster(guests)
        notes += (note,)
    return Trace(str(path), guests, nodes, None, True, {path.name: table.sha256}, notes)


def parse(mapping: str) -> dict[str, str]:
    """The mapping as column of the schema -> expression. Raises `InputError`."""
    file: Path | None = None
    if mapping.endswith(".toml"):
        from gpve_sim.committed import read_toml

        file = Path(mapping)
        columns = read_toml(file).get("columns")
        if not isinstance(columns, dict):
            raise InputError("the table is missing", file, None, "columns")
        entries = {str(key): str(value) for key, value in columns.items()}
    else:
        entries = {}
        for part in mapping.split(","):
            name, equals, expression = (piece.strip() for piece in part.partition("="))
            if not equals or not name or not expression:
                raise InputError(f"{part!r} in the mapping is not COLUMN=EXPRESSION, such as cpu_milli=cores*1000")
            entries[name] = expression
    known = (*REQUIRED, *OPTIONAL, "duration_s")
    for name in entries:
        if name not in known:
            raise InputError(f"{name!r} in the mapping is unknown; known: {', '.join(known)}", file)
    for name in ("cpu_milli", "memory_mib"):
        if name not in entries:
            raise InputError(f"the mapping lacks {name}", file)
    if "duration_s" in entries and "departure_s" in entries:
        raise InputError("the mapping has both departure_s and duration_s: one of them is enough", file)
    return entries


def _quoted(text: str) -> str | None:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else None
