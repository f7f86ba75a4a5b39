"""Items' properties from columns that mean nothing else: what filters and rules of the service go by.

A column is numbers, true and false, or times, if all its cells are; else its cells are texts, or lists where they are
written as such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from offline.datasets import PropertyValue
from offline.errors import OfflineError
from service.conditions import CATEGORIES, MAX_VALUE, NAME, RESERVED
from service.contract.base import MAX_FIELDS
from service.tables import cells
from service.tables.columns import Columns

ALL = "all"
_MOST_LISTED = 100
_TRUTH = {"true": True, "false": False}


class Properties:
    """Columns that are kept, each under a name that the service takes."""

    def __init__(
        self,
        path: Path,
        rows: Sequence[Mapping[str, Any]],
        columns: Columns,
        chosen: Sequence[str],
        has_decimal_commas: bool,
    ) -> None:
        """`chosen` columns, or with `ALL` those that `columns` has no meaning for.

        Raises:
            OfflineError: a chosen column is not there, or they are more than the service keeps.
        """
        seen = dict.fromkeys(name for row in rows for name in row)
        wanted = [name for name in seen if columns.seen.get(name) is None] if ALL in chosen else list(chosen)
        for name in wanted:
            if name not in seen:
                listed = ", ".join(map(repr, seen))
                raise OfflineError(f"{path}: --properties {name}: there is no such column; there are {listed}")
        self._names = {column: property_name(column) for column in wanted}
        if len(self._names) > MAX_FIELDS or len(set(self._names.values())) < len(self._names):
            many = len(self._names) > MAX_FIELDS
            why = f"at most {MAX_FIELDS} can be kept" if many else "two of them would have the same name"
            raise OfflineError(f"{path}: --properties: {', '.join(map(repr, wanted))}: {why}")
        self._kinds = {
            column: _kind([cell for row in rows if (cell := row.get(column)) not in (None, "")], has_decimal_commas)
            for column in wanted
        }
        self._left_out = dict.fromkeys(wanted, 0)
        for column in wanted:
            columns.seen[column] = f"property {self._names[column]}"

    def of(self, row: Mapping[str, Any]) -> dict[str, PropertyValue]:
        """Return the properties of a row's item; cells that are none, or too long, are left out and counted."""
        found: dict[str, PropertyValue] = {}
        for column, name in self._names.items():
            cell = row.get(column)
            if cell is None or cell == "":
                continue
            value = self._kinds[column][1](cell)
            if value is None:
                self._left_out[column] += 1
            else:
                found[name] = value
        return found

    def notes(self) -> list[str]:
        """Tell what the columns were read as."""
        if not self._names:
            return []
        told = [f"{name} ({self._kinds[column][0]})" for column, name in self._names.items()]
        lost = [f"{n:,} cells of {column!r} left out" for column, n in self._left_out.items() if n]
        return [f"properties: {', '.join(told)}", *lost]


def property_name(column: str) -> str:
    """Return a column's name as the service takes it: `Preis (EUR)` is Preis_EUR."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", column).strip("_")[:63]
    if not re.fullmatch(NAME, name) or name in {CATEGORIES, *RESERVED}:
        return f"_{name}" if name else "_"
    return name


_Reader = Callable[[Any], PropertyValue | None]


def _kind(values: Sequence[Any], has_decimal_commas: bool) -> tuple[str, _Reader]:
    """Recognise what a column's cells are, and how to read one."""

    def number(cell: Any) -> float:
        if isinstance(cell, bool) or (isinstance(cell, str) and re.match(r"\s*[+-]?0\d", cell)):
            raise ValueError("a code, such as 00123")
        return cells.as_number(cell, has_decimal_commas)

    def truth(cell: Any) -> bool:
        return cell if isinstance(cell, bool) else _TRUTH[cell.strip().casefold()]

    order = cells.date_order(values)[0]

    def moment(cell: Any) -> str:
        if not (isinstance(cell, date) or cells.is_date(cell)):
            raise ValueError("no date")
        found = datetime.fromtimestamp(cells.as_unix_seconds(cell, order), UTC)
        return found.date().isoformat() if found.time() == datetime.min.time() else found.isoformat()

    kinds: list[tuple[str, _Reader]] = [("true or false", truth), ("numbers", number), ("times", moment)]
    for name, read in kinds:
        if values and _reads(read, values):
            return name, read
    return "texts", _text


def _reads(read: _Reader, values: Iterable[Any]) -> bool:
    try:
        for value in values:
            read(value)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return False
    return True


def _text(cell: Any) -> PropertyValue | None:
    if isinstance(cell, bool | int | float):
        return cell
    written = cells.written_list(cell) if isinstance(cell, str) else cell
    if isinstance(written, list | tuple):
        parts = cells.as_list(list(written), None)
        fits = len(parts or ()) <= _MOST_LISTED and all(len(part) <= MAX_VALUE for part in parts or ())
        return [*parts] if parts is not None and fits else None
    text = cells.as_text(cell)
    return text if text and len(text) <= MAX_VALUE else None
