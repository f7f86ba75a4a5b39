"""A file of what users did with items, row by row, whatever its form: nothing is held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from service.tables import cells, fields
from service.tables.columns import INTERACTION_COLUMNS, Columns
from service.tables.fields import BadField
from service.tables.files import read_table_file
from service.tables.problems import Problems, RowProblem


class Interaction(NamedTuple):
    """A row: who did what with which item, as far as the file says."""

    line: int
    user: str
    item: str
    value: float | None  # a rating, a number of plays
    kind: str | None  # the type of event
    liked: bool | None
    time: int | None  # unix seconds


class InteractionFile:
    """Iterate for the rows; those that cannot be used go to `problems`."""

    def __init__(
        self, path: Path, problems: Problems, chosen: Mapping[str, str] | None = None, encoding: str | None = None
    ) -> None:
        """Recognise the file, and read its dates once: one of them may tell whether the day or the month comes first.

        Args:
            path: where it is.
            problems: takes the rows that cannot be used, while these are read.
            chosen: columns by meaning (`columns.INTERACTION_COLUMNS`), where they have other than the usual names.
            encoding: that of a text file; recognised if None.

        Raises:
            TableError: the file is missing, of an unknown format, or has no column for users or for items.
        """
        self.path, self._problems, self._encoding = path, problems, encoding
        self._columns = Columns(path, INTERACTION_COLUMNS, chosen or {}, "--interaction-columns")
        table = read_table_file(path, [], encoding)
        if table.columns:
            self._columns.require(table.columns, "user", "item")
        self._recognised, self._has_date = table.notes, False
        self._order, self._is_certain = cells.date_order(self._dates(row for _, row in table.rows))

    def _dates(self, rows: Iterator[fields.Row]) -> Iterator[object]:
        for row in rows:
            cell = self._columns.cell(row, "time")[1]
            self._has_date |= cells.is_date(cell)
            yield cell

    def __iter__(self) -> Iterator[Interaction]:
        table = read_table_file(self.path, self._problems, self._encoding)
        for line, row in table.rows:
            try:
                yield self._interaction(line, row, table.has_decimal_commas)
            except BadField as error:
                self._problems.append(RowProblem(str(self.path), line, error.field, str(error)))

    def _interaction(self, line: int, row: fields.Row, has_decimal_commas: bool) -> Interaction:
        columns = self._columns
        kind = columns.cell(row, "type")[1]
        return Interaction(
            line=line,
            user=fields.identifier(row, columns, "user"),
            item=fields.identifier(row, columns, "item"),
            value=fields.number(row, columns, "value", has_decimal_commas),
            kind=None if kind is None or kind == "" else str(kind),
            liked=fields.truth(row, columns, "liked"),
            time=fields.unix_seconds(row, columns, "time", self._order),
        )

    def notes(self) -> list[str]:
        """What was recognised, once all rows were read."""
        notes = [*self._recognised, *self._columns.notes()]
        if self._has_date and not self._is_certain:
            notes.append(f"dates read with the {self._order} first; none tells")
        return notes
