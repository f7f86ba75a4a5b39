"""A file of what users did with items, and of what they were shown, row by row, whatever its form: nothing is held in
memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from service.tables import cells, exports, fields
from service.tables.columns import EXPORT_COLUMNS, INTERACTION_COLUMNS, Columns
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
    slate: str | None = None  # that it answers, by its id


class Shown(NamedTuple):
    """A slate: items that somebody was shown together; which of them they answered is told by interactions."""

    line: int
    user: str
    slate: str  # its id; the same slate may be told of several times
    items: tuple[str, ...]  # from the first place on, each once
    propensities: tuple[float, ...] | None  # with which each was chosen, where the file tells
    time: int | None  # unix seconds


class InteractionFile:
    """Iterate for the rows; those that cannot be used go to `problems`. A row may tell of a slate and of an answer."""

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
        self._export, rows = exports.recognised(table)
        if self._export is not None:
            self._columns = Columns(path, EXPORT_COLUMNS, {}, "--interaction-columns")
        self._recognised, self._has_date = table.notes, False
        self._order, self._is_certain = cells.date_order(self._dates(row for _, row in rows if self._export is None))

    def _dates(self, rows: Iterator[fields.Row]) -> Iterator[object]:
        for row in rows:
            cell = self._columns.cell(row, "time")[1]
            self._has_date |= cells.is_date(cell)
            yield cell

    def __iter__(self) -> Iterator[Interaction | Shown]:
        table = read_table_file(self.path, self._problems, self._encoding)
        self._export, rows = exports.recognised(table)
        for line, row in rows:
            for part in [row] if self._export is None else self._export.interactions(row):
                try:
                    yield from self._told(line, part, table.has_decimal_commas)
                except BadField as error:
                    self._problems.append(RowProblem(str(self.path), line, error.field, str(error)))

    def _told(self, line: int, row: fields.Row, has_decimal_commas: bool) -> Iterator[Interaction | Shown]:
        columns = self._columns
        user = fields.identifier(row, columns, "user")
        time = fields.unix_seconds(row, columns, "time", self._order)
        slate = fields.some_identifier(row, columns, "slate")
        shown = fields.identifiers(row, columns, "shown")
        told: list[Interaction | Shown] = []
        if shown:
            slate = slate or f"line {line}"
            chances = fields.propensities(row, columns, len(shown))
            first = dict(reversed([(item, n) for n, item in enumerate(shown)]))  # place of each item, the first counts
            places = sorted(first.values())
            kept = None if chances is None else tuple(chances[n] for n in places)
            told.append(Shown(line, user, slate, tuple(shown[n] for n in places), kept, time))
        item = fields.some_identifier(row, columns, "item") if shown else fields.identifier(row, columns, "item")
        if item is not None:
            kind = columns.cell(row, "type")[1]
            value = fields.number(row, columns, "value", has_decimal_commas)
            liked = fields.truth(row, columns, "liked")
            kind = None if kind is None or kind == "" else str(kind)
            told.append(Interaction(line, user, item, value, kind, liked, time, slate))
        yield from told

    def notes(self) -> list[str]:
        """What was recognised, once all rows were read."""
        notes = [*self._recognised, *self._columns.notes()]
        if self._export is not None:
            notes += exports.notes(self._export)
        if self._has_date and not self._is_certain:
            notes.append(f"dates read with the {self._order} first; none tells")
        return notes
