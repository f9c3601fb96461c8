"""Rows that nobody will change any more, out of a store's tables: in columns, compressed, so that millions are kept."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from gpve.tasks.ledger import Row
from gpve.tasks.tables import TABLES

GROUP = 65_536
"""Rows that are compressed together."""
TYPES = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


class Archive:
    """Rows of one table, in the order in which they were added."""

    def __init__(self, table: str) -> None:
        described = TABLES[table]
        fields = [
            pa.field(name, TYPES.get(kind.rstrip("?"), pa.string()), nullable=kind.endswith("?"))
            for name, kind in described.columns.items()
        ]
        self._schema = pa.schema(fields)
        self._values = itemgetter(*described.columns)
        self._waiting: list[tuple[Any, ...]] = []
        self._groups: list[pa.Buffer] = []
        self._compressed = 0

    def __len__(self) -> int:
        return self._compressed + len(self._waiting)

    def add(self, rows: Sequence[Row]) -> None:
        """Keep these rows."""
        self._waiting.extend(map(self._values, rows))
        if len(self._waiting) >= GROUP:
            sink = pa.BufferOutputStream()
            parquet.write_table(self._table(), sink, compression="zstd")
            self._groups.append(sink.getvalue())
            self._compressed += len(self._waiting)
            self._waiting = []

    def _table(self) -> pa.Table:
        columns = zip(*self._waiting, strict=True) if self._waiting else [()] * len(self._schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def table(self) -> pa.Table:
        """All of them."""
        return pa.concat_tables(
            [*(parquet.read_table(pa.BufferReader(group)) for group in self._groups), self._table()]
        )
