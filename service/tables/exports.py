"""What other systems log, as rows of items and of interactions; the format is recognised by its first rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, Protocol

from service.tables.dsjson import Dsjson
from service.tables.files import Row, Table
from service.tables.metarank import Metarank

_FIRST = 20  # rows, one of which shows the format


class Export(Protocol):
    """A format: reads one row of a file after the other."""

    name: str
    left_out: Counter[str]  # rows, by why

    @staticmethod
    def is_row(row: Mapping[str, Any]) -> bool:
        """Check that a row can only be of this format."""

    def interactions(self, row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Rows of interactions, by the meanings of `columns.EXPORT_COLUMNS`."""

    def take_items(self, line: int, row: Mapping[str, Any]) -> None:
        """Remember what a row says of items."""

    def items(self) -> Iterator[Row]:
        """All items, as rows of a catalogue, each with the last line that told of it."""


FORMATS: tuple[type[Export], ...] = (Metarank, Dsjson)


def recognised(table: Table) -> tuple[Export | None, Iterator[Row]]:
    """Find the format of a table, None where it is a plain one; and all of its rows."""
    if table.columns:
        return None, table.rows
    first = list(islice(table.rows, _FIRST))
    rows = chain(first, table.rows)
    return next((form() for form in FORMATS if any(form.is_row(row) for _, row in first)), None), rows


def item_rows(export: Export, rows: Iterator[Row]) -> Iterator[Row]:
    """The items of a log."""
    for line, row in rows:
        export.take_items(line, row)
    yield from export.items()


def notes(export: Export) -> list[str]:
    """Tell what was recognised, and what was left out so far."""
    return [export.name, *(f"{n:,} {why}" for why, n in export.left_out.most_common())]
