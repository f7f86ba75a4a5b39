"""Cells of people's tables as texts, numbers, times and lists."""

from __future__ import annotations

import ast
import html
import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any, Literal

SEPARATORS = ("|", ";", " > ", ",")
"""Of several categories in one text, the first that a column has anywhere."""

DateOrder = Literal["day", "month"]
_DATE = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?:[ ,T]+(\d{1,2}):(\d{2})(?::(\d{2}))?)?")
_MOST_SECONDS = 1e11  # beyond the year 5000: a larger time counts milliseconds, or parts of them
_LARGEST = 2**53


def as_text(cell: Any) -> str | None:
    """A text with its HTML entities decoded; None for a cell of another kind.

    JSON can name half a character (a lone surrogate), which UTF-8 cannot hold: that is None, too.
    """
    if not isinstance(cell, str) or any("\ud800" <= c <= "\udfff" for c in cell):
        return None
    return (html.unescape(cell) if "&" in cell else cell).strip()


def as_identifier(cell: Any) -> str | None:
    """A text, or a whole number as workbooks hold it (12.0 for 12); None for a cell of another kind."""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) <= _LARGEST:
        cell = int(cell)
    if isinstance(cell, bool) or not isinstance(cell, int | str):
        return None
    text = str(cell).strip()
    return None if any("\ud800" <= c <= "\udfff" for c in text) else text


def as_number(cell: Any, has_decimal_commas: bool = False) -> float:
    """A number, also as `1.234,5` or `1,234.5`; of `1,234` the file's kind decides.

    Raises:
        ValueError: it is not a finite number of at most 2^53.
    """
    if isinstance(cell, str):
        digits = cell.strip().replace("\u00a0", "").replace(" ", "")
        comma, point = digits.rfind(","), digits.rfind(".")
        is_decimal = (
            comma > point if point >= 0 else has_decimal_commas or not re.search(r"^[+-]?\d{1,3}(,\d{3})+$", digits)
        )
        cell = digits.replace(".", "").replace(",", ".") if comma >= 0 and is_decimal else digits.replace(",", "")
    number = float(cell)
    if not math.isfinite(number) or abs(number) > _LARGEST:
        raise ValueError(f"{number} is not a usable number")
    return number


def date_order(cells: Iterable[Any]) -> tuple[DateOrder, bool]:
    """Tell what comes first in the dates of a column, day or month, and whether any date shows it."""
    slashes = False
    for cell in cells:
        if isinstance(cell, str) and (found := _DATE.match(cell.strip())):
            if int(found[1]) > 12:
                return "day", True
            if int(found[3]) > 12:
                return "month", True
            slashes |= found[2] == "/"
    return "month" if slashes else "day", False


def is_date(cell: Any) -> bool:
    """True for a text that `date_order` speaks of."""
    return isinstance(cell, str) and _DATE.match(cell.strip()) is not None


def as_unix_seconds(cell: Any, order: DateOrder) -> int:
    """A time in unix seconds, milliseconds or less, in ISO form, or as a date with the year last; UTC without a zone.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(cell, datetime | date):
        moment = cell if isinstance(cell, datetime) else datetime(cell.year, cell.month, cell.day)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if isinstance(cell, str):
        text = cell.strip()
        if found := _DATE.fullmatch(text):
            ordered = (int(found[1]), int(found[3]))
            day, month = ordered if order == "day" else reversed(ordered)
            hour, minute, second = (int(part or 0) for part in found.groups()[4:])
            return int(datetime(int(found[4]), month, day, hour, minute, second, tzinfo=UTC).timestamp())
        if not re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text, re.IGNORECASE):
            moment = datetime.fromisoformat(text.removesuffix(" UTC"))
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    number = float(cell)
    if not math.isfinite(number) or abs(number) > 1e20:
        raise ValueError(f"{number} is not a time")
    while abs(number) > _MOST_SECONDS:
        number /= 1000
    return int(number)


def separator_of(cells: Iterable[Any]) -> str | None:
    """The separator that the lists of a column have; None where no text has any."""
    texts = [cell for cell in cells if isinstance(cell, str) and not _is_written_list(cell)]
    return next((separator for separator in SEPARATORS if any(separator in text for text in texts)), None)


def as_list(cell: Any, separator: str | None) -> list[str] | None:
    """Texts of a list, of a list written as JSON or as Python writes it, or of one text; None for other cells."""
    if cell is None or cell == "":
        return []
    if isinstance(cell, str) and _is_written_list(cell):
        cell = _read_list(cell)
    parts = cell.split(separator) if isinstance(cell, str) and separator else [cell] if isinstance(cell, str) else cell
    if not isinstance(parts, list | tuple):
        return None
    texts = [as_text(part) for part in parts]
    return None if any(text is None for text in texts) else list(dict.fromkeys(text for text in texts if text))


def written_list(cell: str) -> list[Any] | None:
    """The parts of a list that is written as JSON or as Python writes it, whatever they are; None for another text."""
    found = _read_list(cell) if _is_written_list(cell) else None
    return found if isinstance(found, list) else None


def _is_written_list(cell: str) -> bool:
    return cell.strip()[:1] == "[" and cell.strip()[-1:] == "]"


def _read_list(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return cell
