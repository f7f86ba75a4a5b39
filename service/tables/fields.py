"""What a row must say, out of its cells: an error names the column, so that its row alone is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.tables import cells
from service.tables.columns import Columns

MAX_ID_BYTES = 256  # as the API takes them; a test holds it to that
_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}

Row = Mapping[str, Any]


class BadField(Exception):
    """A cell that cannot be used; `field` is its column."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def truth(row: Row, columns: Columns, meaning: str) -> bool | None:
    """Whether a cell says yes; None where it is empty.

    Raises:
        BadField: it says something else.
    """
    name, cell = columns.cell(row, meaning)
    if cell is None or cell == "":
        return None
    if (word := str(cell).strip().lower()) not in _TRUTH:
        raise BadField(name, f"{word[:80]!r} is not one of true, false, 1, 0, yes, no")
    return _TRUTH[word]


def identifier(row: Row, columns: Columns, meaning: str) -> str:
    """An id as the API takes it.

    Raises:
        BadField: there is none, or it is too long.
    """
    name, cell = columns.cell(row, meaning)
    found = cells.as_identifier(cell)
    if found is None:
        raise BadField(name, f"needed (as {' or '.join(columns.meanings[meaning][:2])}): a text or a whole number")
    if not 0 < len(found.encode()) <= MAX_ID_BYTES:
        raise BadField(name, f"must be 1 to {MAX_ID_BYTES} bytes long")
    return found


def some_identifier(row: Row, columns: Columns, meaning: str) -> str | None:
    """The same; None where the cell is empty.

    Raises:
        BadField: it is not one.
    """
    cell = columns.cell(row, meaning)[1]
    return None if cell is None or cell == "" else identifier(row, columns, meaning)


def identifiers(row: Row, columns: Columns, meaning: str) -> list[str]:
    """Ids in a list, or in a text between one of `cells.SEPARATORS`; none where the cell is empty.

    Raises:
        BadField: it is no list of ids.
    """
    name, cell = columns.cell(row, meaning)
    found = [cells.as_identifier(part) for part in _parts(cell)]
    if not all(one is not None and 0 < len(one.encode()) <= MAX_ID_BYTES for one in found):
        raise BadField(name, f"must be a list of ids, each 1 to {MAX_ID_BYTES} bytes long")
    return [one for one in found if one is not None]


def propensities(row: Row, columns: Columns, n: int) -> list[float] | None:
    """Probabilities of `n` items; None where the cell is empty.

    Raises:
        BadField: they are not as many, or not above 0 and at most 1.
    """
    name, cell = columns.cell(row, "propensities")
    try:
        found = [cells.as_number(part) for part in _parts(cell)]
    except (TypeError, ValueError, OverflowError):
        raise BadField(name, "must be a list of probabilities") from None
    if not found:
        return None
    if len(found) != n or not all(0 < chance <= 1 for chance in found):
        raise BadField(name, f"must be {n} probabilities, one for each item shown, above 0 and at most 1")
    return found


def _parts(cell: Any) -> list[Any]:
    """What stands in a cell that may be a list, a list written as JSON, or a text with separators."""
    if cell is None or cell == "":
        return []
    if isinstance(cell, str):
        written, separator = cells.written_list(cell), cells.separator_of([cell])
        return written if written is not None else [part.strip() for part in cell.split(separator)]
    return list(cell) if isinstance(cell, list | tuple) else [cell]


def number(row: Row, columns: Columns, meaning: str, has_decimal_commas: bool) -> float | None:
    """A number; None where the cell is empty.

    Raises:
        BadField: it is not a usable one.
    """
    name, cell = columns.cell(row, meaning)
    if cell is None or cell == "":
        return None
    try:
        return cells.as_number(cell, has_decimal_commas)
    except (TypeError, ValueError, OverflowError):
        raise BadField(name, f"{str(cell)[:80]!r} is not a usable number") from None


def unix_seconds(row: Row, columns: Columns, meaning: str, order: cells.DateOrder) -> int | None:
    """A time, unix seconds; None where the cell is empty.

    Raises:
        BadField: it is not a time.
    """
    name, cell = columns.cell(row, meaning)
    if cell is None or cell == "":
        return None
    try:
        return cells.as_unix_seconds(cell, order)
    except (TypeError, ValueError, OverflowError):
        raise BadField(name, f"{str(cell)[:80]!r} is not a time (unix seconds, ISO 8601, or a date)") from None
