"""What is wrong with a file: the whole of it, or a row that could not be used."""

from __future__ import annotations

from dataclasses import dataclass


class TableError(Exception):
    """A file that cannot be read; the message names it, and the fix where there is one."""


@dataclass(frozen=True)
class RowProblem:
    """A row that could not be used: where it stands (line counts from 1; the row number in Parquet) and why."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.message}"


Problems = list[RowProblem]
