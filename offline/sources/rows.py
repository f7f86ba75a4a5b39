"""Rows of text files: read line by line, every malformed one noted with its place, none silently dropped."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline.datasets import Observation
from offline.errors import OfflineError
from service.tables.problems import Problems, RowProblem


def numbered_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without line end) of a text file, gzipped where its name ends in .gz.

    Raises:
        OfflineError: the file is missing, is not gzip although named so, or holds bytes that are not `encoding`.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip(b"\r\n").decode(encoding)
    except FileNotFoundError:
        raise OfflineError(f"{path}: not found; does --folder name the folder that holds it?") from None
    except UnicodeDecodeError as error:
        raise OfflineError(f"{path}:{number}: not {encoding} text ({error.reason}); convert the file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise OfflineError(f"{path}: cannot be read ({error}); fetch it again") from None


def read_table(
    path: Path,
    columns: Mapping[str, Callable[[str], Any]],
    problems: Problems,
    *,
    separator: str | None,
    header: bool = False,
    encoding: str = "utf-8",
    width: int | None = None,
) -> Iterator[tuple[int, list[Any]]]:
    """Yield (line number, converted values) of a separated text file; rows that do not convert go to `problems`.

    `columns` maps the leading columns' names to converters that raise ValueError; `width` is the number of fields a row
    has (default: as many as `columns`). `separator` None splits at white space. Blank lines are no rows.
    """
    expected = width or len(columns)
    for number, line in numbered_lines(path, encoding):
        if (header and number == 1) or not line.strip():
            continue
        cells = line.split(separator)
        if len(cells) != expected:
            problems.append(RowProblem(str(path), number, "row", f"{len(cells)} fields, expected {expected}"))
            continue
        values: list[Any] = []
        for (name, convert), cell in zip(columns.items(), cells, strict=False):
            try:
                values.append(convert(cell))
            except ValueError:
                problems.append(RowProblem(str(path), number, name, f"{cell[:80]!r} is not a valid {name}"))
                break
        else:
            yield number, values


def read_zero_one_rows(path: Path, width: int, problems: Problems) -> list[list[int]]:
    """All rows of a 0/1 matrix of `width` space-separated columns.

    Raises:
        OfflineError: a row is malformed; rows carry identity by place, so none can be left out.
    """
    columns = {f"column {i}": _bit for i in range(width)}
    rows = [row for _, row in read_table(path, columns, problems, separator=None)]
    if problems:
        raise OfflineError(f"{problems[0]}; a row of this matrix cannot be skipped, fetch the file again")
    return rows


def at_least(observations: Sequence[Observation], minimum: int) -> set[Hashable]:
    """The items that `minimum` or more observations name."""
    counts = Counter(o.item for o in observations)
    return {item for item, count in counts.items() if count >= minimum}


def number_within(low: int, high: int) -> Callable[[str], int]:
    """A converter to an integer from `low` to `high`, both included; raises ValueError outside."""

    def convert(cell: str) -> int:
        value = int(cell)
        if not low <= value <= high:
            raise ValueError(cell)
        return value

    return convert


_bit = number_within(0, 1)
