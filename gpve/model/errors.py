"""The one error for bad input: it says what is wrong, where, and what would be right."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class InputError(Exception):
    """Input that cannot be used, told in one sentence.

    ``line`` counts from 1 (the header is line 1); ``column`` is the name of a column, a key or a field.
    """

    problem: str
    file: str | Path | None = None
    line: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        where = ""
        if self.file is not None:
            where = str(self.file)
            if self.line is not None:
                where += f", line {self.line}"
            if self.column is not None:
                where += f", column {self.column}"
        elif self.column is not None:
            where = self.column
        return f"{where}: {self.problem}" if where else self.problem
