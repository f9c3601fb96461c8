"""A table from CSV or Parquet as checked columns; every complaint names file, line and column.

CSV is read as text and converted column by column, so that a bad value can be quoted; Parquet is read one
column at a time, so that five million rows need little more than their own columns.
"""

import csv
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpve.model import InputError
from gpve_sim.readers.content import check_file, content, decoded, sha256, sha256_of_file

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]

LARGEST = 2**53
"""No number may be larger: up to here 64-bit floats hold every integer."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BLOCK = 1 << 24
_PIECE = 1 << 18


class Table(ABC):
    """R rows under named columns."""

    path: Path
    names: tuple[str, ...]
    rows: int
    sha256: str

    @abstractmethod
    def column(self, name: str) -> pa.Array:
        """(R,) the column as it was read: text from CSV, any type from Parquet."""

    @abstractmethod
    def place(self, row: int) -> tuple[int | None, str]:
        """The line of a row, and words for it where the format has no lines."""

    def error(self, problem: str, row: int | None = None, column: str | None = None) -> InputError:
        """An `InputError` about one place in this table."""
        if row is None:
            return InputError(problem, self.path, 1 if column is not None else None, column)
        line, words = self.place(row)
        return InputError(words + problem, self.path, line, column)

    def refuse(self, bad: NDArray[np.bool_], column: str, problem: Callable[[int], str]) -> None:
        """Raise for the first row where ``bad`` is true."""
        if bad.any():
            row = int(np.argmax(bad))
            raise self.error(problem(row), row, column)

    def expect(self, required: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Check the header: all of ``required``, nothing but ``required`` and ``optional``; and some rows."""
        known = [*required, *optional]
        for position, name in enumerate(self.names):
            if name in self.names[:position]:
                raise self.error("the column is there twice", column=name)
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise self.error(f"unknown column; {hint}known: {', '.join(known)}", column=name)
        for name in required:
            if name not in self.names:
                raise self.error("the column is missing", column=name)

    def some_rows(self, what: str) -> None:
        """Raise if the table has a header only."""
        if self.rows == 0:
            raise self.error(f"has no rows: {what}")

    def floats(self, name: str, *, low: float = 0.0, empty: float | None = None) -> Floats:
        """(R,) finite numbers of at least ``low``; ``empty`` stands for nothing written (None: an error)."""
        array = self.column(name)
        missing = _missing(array)
        if _is_number(array.type):
            values = _to_floats(array)
        elif is_text(array.type):
            values = self._parsed(array, name, missing)
        else:
            raise self.error(f"numbers are expected, found {array.type}", column=name)
        if missing is None and len(values) and low <= values.min() and values.max() <= LARGEST:
            return values
        if missing is not None:
            if empty is None:
                self.refuse(missing, name, lambda row: "the value is missing")
            values[missing] = 0.0 if empty is None else empty
        written = True if missing is None else ~missing
        self.refuse(written & ~np.isfinite(values), name, lambda row: f"{values[row]} is not a finite number")
        self.refuse(
            written & (values < low),
            name,
            lambda row: f"{values[row]:g} is {'negative' if low == 0 else f'below {low:g}'}",
        )
        self.refuse(
            written & (np.abs(values) > LARGEST),
            name,
            lambda row: f"{values[row]:g} is too large (above 2^53)",
        )
        return values

    def ints(self, name: str, *, low: int = 0, high: int = LARGEST, empty: int | None = None) -> Ints:
        """(R,) whole numbers from ``low`` to ``high``."""
        array = self.column(name)
        if pa.types.is_integer(array.type) and not array.null_count and len(array):
            bounds = pc.min_max(array).as_py()
            if low <= bounds["min"] and bounds["max"] <= high:
                return np.array(array.to_numpy(), dtype=np.int64)
        values = self.floats(name, low=low, empty=empty)
        whole = values.astype(np.int64)
        self.refuse(whole != values, name, lambda row: f"{values[row]:g} is not a whole number")
        self.refuse(whole > high, name, lambda row: f"{whole[row]} is too large (at most {high})")
        return whole

    def codes(self, name: str, *, low: int = 0, empty: int | None = 0) -> Codes:
        """Like `ints`, of 32 bits."""
        return self.ints(name, low=low, high=2**31 - 1, empty=empty).astype(np.int32)

    def unique(self, name: str) -> pa.Array:
        """(R,) names as text: none empty, none twice."""
        array = self.column(name)
        if not is_text(array.type):
            if not pa.types.is_integer(array.type):
                raise self.error(f"names are expected, found {array.type}", column=name)
            array = array.cast(pa.string())
        if pa.types.is_dictionary(array.type):
            array = array.cast(pa.string())
        missing = _missing(array)
        if missing is not None:
            self.refuse(missing, name, lambda row: "the name is empty")
        # Names in rising order, as numbered ones are, need no table of five million texts to be found unique.
        if not pc.all(pc.less(array[:-1], array[1:])).as_py() and len(pc.unique(array)) != len(array):
            seen: dict[str, int] = {}
            for row, value in enumerate(array.to_pylist()):
                if value in seen:
                    line, words = self.place(seen[value])
                    first = f"line {line}" if line is not None else words.rstrip(": ")
                    raise self.error(f"{value!r} is there twice, first in {first}", row, name)
                seen[value] = row
        return array

    def texts(self, name: str) -> tuple[Codes, tuple[str, ...]]:
        """(R,) codes into the distinct texts in order of appearance, -1 where empty."""
        array = self.column(name)
        if pa.types.is_null(array.type):
            return np.full(self.rows, -1, dtype=np.int32), ()
        if not is_text(array.type):
            if not pa.types.is_integer(array.type):
                raise self.error(f"text is expected, found {array.type}", column=name)
            array = array.cast(pa.string())
        if not pa.types.is_dictionary(array.type):
            array = pc.dictionary_encode(array)
        codes = np.array(pc.fill_null(array.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int32)
        return _dense(codes, array.dictionary.to_pylist())

    def parsed(self, name: str, parse: Callable[[str], object]) -> tuple[Codes, tuple[str, ...]]:
        """Like `texts`, each accepted by ``parse``; its `ValueError` is told with the line."""
        codes, values = self.texts(name)
        for code, value in enumerate(values):
            try:
                parse(value)
            except ValueError as error:
                raise self.error(str(error), int(np.argmax(codes == code)), name) from None
        return codes, values

    def _parsed(self, array: pa.Array, name: str, missing: NDArray[np.bool_] | None) -> Floats:
        if pa.types.is_dictionary(array.type):
            array = array.cast(pa.string())
        if missing is not None:
            array = pc.if_else(pa.array(missing), pa.scalar(None, array.type), array)
        try:
            return _to_floats(array.cast(pa.float64()))
        except pa.ArrowInvalid:
            values = np.zeros(len(array))
            for row, value in enumerate(array.to_pylist()):
                if value is None:
                    continue
                if not _NUMBER.fullmatch(value.strip()):
                    raise self.error(f"{value!r} is not a number", row, name) from None
                values[row] = float(value)
            return values


class CsvTable(Table):
    """A CSV file with a header; comma, double quotes, UTF-8, gzip or not."""

    def __init__(self, path: Path) -> None:
        from pyarrow import csv as arrow_csv

        self.path = path
        self._data = content(path)
        self.sha256 = sha256(self._data)
        header = next(_records(self._data, path), None)
        if header is None:
            raise InputError("the file is empty", path)
        self.names = tuple(name.strip() for name in header[1])
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(self._data),
                read_options=arrow_csv.ReadOptions(
                    block_size=_BLOCK, column_names=[str(i) for i in range(len(self.names))]
                ),
                parse_options=arrow_csv.ParseOptions(newlines_in_values=b'"' in self._data),
                convert_options=arrow_csv.ConvertOptions(
                    column_types={str(i): pa.string() for i in range(len(self.names))},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pa.ArrowInvalid as error:
            raise self._not_csv(error) from None
        self._columns = [joined(column)[1:] for column in table.columns]
        self.rows = table.num_rows - 1

    def column(self, name: str) -> pa.Array:
        return self._columns[self.names.index(name)]

    def place(self, row: int) -> tuple[int | None, str]:
        for number, (line, _) in enumerate(_records(self._data, self.path)):
            if number == row + 1:
                return line, ""
        raise IndexError(row)

    def _not_csv(self, error: Exception) -> InputError:
        for line, record in _records(self._data, self.path):
            if len(record) != len(self.names):
                problem = f"{len(record)} values, but the header has {len(self.names)}"
                return InputError(problem, self.path, line)
        return InputError(f"not readable as CSV: {error}", self.path)


class ParquetTable(Table):
    """A Parquet file, read column by column when it is asked for."""

    def __init__(self, path: Path, dictionary: Sequence[str] = ()) -> None:
        """``dictionary``: columns of few distinct texts, never spelt out in memory."""
        import pyarrow.parquet as pq

        check_file(path)
        self.path = path
        try:
            schema = pq.read_schema(path, memory_map=True)
            few = [name for name in dictionary if name in schema.names and is_text(schema.field(name).type)]
            self._file = pq.ParquetFile(pa.OSFile(str(path)), read_dictionary=few, pre_buffer=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"not readable as Parquet: {_first_line(error)}", path) from None
        self.names = tuple(self._file.schema_arrow.names)
        self.rows = self._file.metadata.num_rows
        self.sha256 = sha256_of_file(path)

    def column(self, name: str) -> pa.Array:
        try:
            return joined(self._file.read(columns=[name], use_threads=False).column(0))
        except (pa.ArrowInvalid, OSError) as error:
            raise self.error(f"not readable: {_first_line(error)}", column=name) from None

    def error(self, problem: str, row: int | None = None, column: str | None = None) -> InputError:
        error = super().error(problem, row, column)
        error.line = None
        return error

    def place(self, row: int) -> tuple[int | None, str]:
        return None, f"row {row + 1}: "


def open_table(path: Path, dictionary: Sequence[str] = ()) -> Table:
    """The table in ``path``: Parquet by its suffix, else CSV."""
    return ParquetTable(path, dictionary) if path.suffix == ".parquet" else CsvTable(path)


def header_of(path: Path) -> tuple[str, ...]:
    """The column names of a table, without reading its rows where the format allows it."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        check_file(path)
        try:
            return tuple(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"not readable as Parquet: {_first_line(error)}", path) from None
    first = next(_records(content(path), path), None)
    if first is None:
        raise InputError("the file is empty", path)
    return tuple(name.strip() for name in first[1])


@contextmanager
def returned_memory() -> Iterator[None]:
    """Arrow's own pools keep what reading one column needed; the system's gives it back for the next one.

    Measured with five million guests: 100 MiB above their columns at the peak instead of 150.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def joined(column: pa.ChunkedArray) -> pa.Array:
    """One array out of chunks; texts of more than 2 GiB together get 64-bit offsets."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_string(column.type) and column.nbytes > 2**31 - 1:
        column = column.cast(pa.large_string())
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    array = column.combine_chunks()
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _records(data: bytes, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Records that are not empty lines, each with the line that it begins in."""
    # Only as far as asked: the whole text is decoded for a complaint, not for a header.
    end = data.find(b"\n")
    if b'"' not in data[: end + 1] and data[: end + 1].strip(b"\xef\xbb\xbf\r\n"):
        yield 1, next(csv.reader([decoded(data[: end if end >= 0 else None], path)]))
        skip = True
    else:
        skip = False
    lines = csv.reader(io.StringIO(decoded(data, path), newline=""))
    before = 0
    while True:
        try:
            record = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"not readable as CSV: {error}", path, lines.line_num) from None
        if record and not skip:
            yield before + 1, record
        if record:
            skip = False
        before = lines.line_num


def _missing(array: pa.Array) -> NDArray[np.bool_] | None:
    """(R,) true where nothing is written; None where all is."""
    missing = pc.is_null(array)
    if is_text(array.type) and not pa.types.is_null(array.type) and not pa.types.is_dictionary(array.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.binary_length(array), 0), True))
    if not pc.any(missing).as_py():
        return None
    return np.asarray(missing.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _to_floats(array: pa.Array) -> Floats:
    if array.null_count:
        array = pc.fill_null(array, pa.scalar(0, array.type))
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    # A copy that numpy owns: a view of Arrow's memory is read-only, and numba compiles anew for those.
    return np.array(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def _dense(codes: Codes, values: list[str | None]) -> tuple[Codes, tuple[str, ...]]:
    """Codes counted from 0 in order of appearance, only over texts that appear and are not empty."""
    order: list[int] = []
    # The last place stands for -1 and for empty texts: seen from the start, so never in the order.
    seen = np.array([not value for value in values] + [True])
    for start in range(0, len(codes), _PIECE):
        if seen.all():
            break
        found, first = np.unique(codes[start : start + _PIECE], return_index=True)
        fresh = found[np.argsort(first)]
        fresh = fresh[~seen[fresh]]
        seen[fresh] = True
        order += fresh.tolist()
    table = np.full(len(values) + 1, -1, dtype=np.int32)
    table[order] = np.arange(len(order), dtype=np.int32)
    return table[codes], tuple(str(values[code]) for code in order)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
