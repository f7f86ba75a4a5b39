"""The user's own catalogue, with optional interactions: JSON Lines, CSV or Parquet, by the file's ending."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from offline.datasets import Dataset, Item, Observation, RowProblem, Scenario, import_pyarrow, index_observations
from offline.errors import OfflineError
from offline.sources.rows import Problems, numbered_lines

MAX_ID_BYTES = 256
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

T = TypeVar("T")
Row = tuple[int, Mapping[str, Any]]  # line (or row) number from 1, cells by column


def load_catalogue(
    items_path: Path,
    interactions_path: Path | None = None,
    *,
    scenario: Scenario | None = None,
    liked_at: float | None = None,
) -> Dataset:
    """Read a catalogue and what users did with it.

    An item has `id` or `item_id`, `text` or `title`, and optionally `categories`: a list, or one text separated by `|`.
    An interaction has `user` or `user_id`, `item` or `item_id`, and optionally `value` (or `rating`), `liked`, `time`
    (or `timestamp`; by default the line). Without a column `liked`, it is liked where its value is at least `liked_at`,
    or always if that is None. Rows that cannot be used are listed in the result's `problems`.

    Raises:
        OfflineError: a file is missing, of another format or holds no usable item.
    """
    problems: Problems = []
    items: list[Item] = []
    index: dict[Hashable, int] = {}
    for line, item in _parsed(items_path, _item, problems):
        if item.item_id in index:
            problems.append(RowProblem(str(items_path), line, "id", f"{item.item_id!r} is in the file twice"))
            continue
        index[item.item_id] = len(items)
        items.append(item)
    if not items:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise OfflineError(f"{items_path}: no usable item{first}")
    interactions = None
    if interactions_path is not None:
        observations = []
        for line, observation in _parsed(interactions_path, partial(_observation, liked_at=liked_at), problems):
            if observation.item in index:
                observations.append(observation)
            else:
                message = f"{observation.item!r} is not in {items_path.name}"
                problems.append(RowProblem(str(interactions_path), line, "item", message))
        interactions = index_observations(observations, index)
    return Dataset("catalogue", scenario or Scenario(), tuple(items), interactions, tuple(problems))


class _BadField(Exception):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _parsed(path: Path, parse: Callable[[int, Mapping[str, Any]], T], problems: Problems) -> Iterator[tuple[int, T]]:
    readers = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise OfflineError(f"{path}: unknown format; name it .jsonl, .csv or .parquet")
    for line, row in reader(path, problems):
        try:
            yield line, parse(line, row)
        except _BadField as error:
            problems.append(RowProblem(str(path), line, error.field, str(error)))


def _item(_line: int, row: Mapping[str, Any]) -> Item:
    categories = row.get("categories")
    if categories is None or categories == "":
        categories = []
    if isinstance(categories, str):
        categories = categories.split("|")
    if not isinstance(categories, list) or not all(_is_text(c) for c in categories):
        raise _BadField("categories", "must be a list of texts, or one text separated by |")
    name, text = _first(row, "text", "title")
    if not _is_text(text) or not text.strip():
        raise _BadField(name, "must be a text of whole characters that is not empty")
    return Item(_identifier(row, "id", "item_id"), text.strip(), tuple(c.strip() for c in categories if c.strip()))


def _observation(line: int, row: Mapping[str, Any], liked_at: float | None) -> Observation:
    user, item = _identifier(row, "user", "user_id"), _identifier(row, "item", "item_id")
    value = _number(row, 1.0, "value", "rating")
    time = _number(row, line, "time", "timestamp")
    liked = row.get("liked")
    if liked is None or liked == "":
        positive = liked_at is None or value >= liked_at
    else:
        if (word := str(liked).lower()) not in _TRUTH:
            raise _BadField("liked", f"{word[:80]!r} is not one of true, false, 1, 0")
        positive = _TRUTH[word]
    return Observation(user, item, value, positive, int(time))


def _first(row: Mapping[str, Any], *names: str) -> tuple[str, Any]:
    """The first of the columns that the row has, and its cell."""
    return next(((name, row[name]) for name in names if row.get(name) is not None), (names[0], None))


def _is_text(cell: object) -> TypeGuard[str]:
    """Text that UTF-8 can hold; JSON can name half a character (a lone surrogate), which nothing can store."""
    return isinstance(cell, str) and not any("\ud800" <= c <= "\udfff" for c in cell)


def _identifier(row: Mapping[str, Any], *names: str) -> str:
    name, cell = _first(row, *names)
    if isinstance(cell, bool) or not (isinstance(cell, int) or _is_text(cell)):
        raise _BadField(name, f"needed (as {' or '.join(names)}): a text or a whole number")
    identifier = str(cell).strip()
    if not 0 < len(identifier.encode()) <= MAX_ID_BYTES:
        raise _BadField(name, f"must be 1 to {MAX_ID_BYTES} bytes long")
    return identifier


def _number(row: Mapping[str, Any], default: float, *names: str) -> float:
    name, cell = _first(row, *names)
    if cell is None or cell == "":
        return default
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        raise _BadField(name, f"{str(cell)[:80]!r} is not a number") from None
    if not math.isfinite(number) or abs(number) > 2**53:
        raise _BadField(name, f"{number} is not a usable number")
    return number


def _json_rows(path: Path, problems: Problems) -> Iterator[Row]:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(RowProblem(str(path), number, "row", f"not JSON ({error})"))
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problems.append(RowProblem(str(path), number, "row", "not a JSON object"))


def _csv_rows(path: Path, problems: Problems) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    message = f"does not have as many fields as the header ({len(reader.fieldnames or [])})"
                    problems.append(RowProblem(str(path), reader.line_num, "row", message))
                else:
                    yield reader.line_num, row
    except FileNotFoundError:
        raise OfflineError(f"{path}: not found") from None
    except UnicodeDecodeError as error:
        raise OfflineError(f"{path}: not UTF-8 text (byte {error.start}: {error.reason}); convert the file") from None
    except (OSError, csv.Error) as error:
        raise OfflineError(f"{path}: cannot be read as CSV ({error})") from None


def _parquet_rows(path: Path, problems: Problems) -> Iterator[Row]:
    _, parquet = import_pyarrow()
    try:
        rows = parquet.read_table(path).to_pylist()
    except FileNotFoundError:
        raise OfflineError(f"{path}: not found") from None
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise OfflineError(f"{path}: cannot be read as Parquet ({error})") from None
    yield from enumerate(rows, 1)
