"""Tables as people have them: CSV of any dialect and encoding, Excel, JSON and Parquet, compressed or not.

What was recognised is told (`Table.notes`); what a row lacks costs that row alone.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from service.tables.problems import Problems, RowProblem, TableError
from service.tables.text import UNREADABLE, Opener, TextFile

Row = tuple[int, Mapping[str, Any]]  # line (or row) number from 1, cells by column

FORMATS = ".csv, .tsv, .jsonl, .json, .parquet or .xlsx (also .xls, .ods), also packed as .gz, .bz2, .xz or .zip"
DELIMITERS = (",", ";", "\t", "|")
_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE_LINES = 100  # that tell the delimiter
_MOST_LINES = 200  # of one CSV record: a quote that stays open must not swallow the rest of the file


@dataclass(frozen=True)
class Table:
    """Rows of a file, read as they are asked for, with the names of its columns and what was recognised."""

    columns: Sequence[str]  # empty where every row names its own
    rows: Iterator[Row]
    notes: tuple[str, ...]
    has_decimal_commas: bool = False


def read_table_file(path: Path, problems: Problems, encoding: str | None = None) -> Table:
    """Recognise a file by its name and content. Rows that cannot be read go to `problems`.

    Args:
        encoding: that of a text file; recognised if None.

    Raises:
        TableError: the file is missing, of an unknown format, or cannot be read at all; also while rows are read.
    """
    opener, packing, suffix = _unpacked(path)
    notes = [packing] if packing else []
    readers: dict[str, Callable[[], Table]] = {
        ".parquet": lambda: _parquet(path, opener),
        **dict.fromkeys((".xlsx", ".xls", ".ods"), lambda: _workbook(path, opener)),
        **dict.fromkeys((".jsonl", ".ndjson"), lambda: _json_lines(TextFile(path, opener, encoding), problems)),
        ".json": lambda: _json(TextFile(path, opener, encoding), problems),
        **dict.fromkeys((".csv", ".tsv", ".txt"), lambda: _csv(TextFile(path, opener, encoding), problems)),
    }
    reader = readers.get(suffix)
    if reader is None:
        raise TableError(f"{path}: unknown format; name it {FORMATS}")
    try:
        table = reader()
    except FileNotFoundError:
        raise TableError(f"{path}: not found") from None
    except UNREADABLE as error:
        raise TableError(f"{path}: cannot be read ({error})") from None
    return Table(table.columns, table.rows, (*notes, *table.notes), table.has_decimal_commas)


def _unpacked(path: Path) -> tuple[Opener, str, str]:
    """Find a way to open what is in a file, what it is packed with, and the ending of the name without that."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-1] if suffixes else ""
    packed: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if suffix in packed:
        inner = suffixes[-2] if len(suffixes) > 1 else ""
        return partial(packed[suffix], path, "rb"), f"unpacked from {suffix[1:]}", inner
    if suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except FileNotFoundError:
            raise TableError(f"{path}: not found") from None
        except UNREADABLE as error:
            raise TableError(f"{path}: cannot be read ({error})") from None
        if len(names) != 1:
            raise TableError(f"{path}: holds {len(names)} files; unpack it and name one of them")
        return lambda: zipfile.ZipFile(path).open(names[0]), "unpacked from zip", Path(names[0]).suffix.lower()
    return lambda: path.open("rb"), "", suffix


def _csv(text: TextFile, problems: Problems) -> Table:
    start = list(islice(text.lines([]), _SAMPLE_LINES))
    declared = start[0][1].strip().lower() if start else ""
    skip = 1 if declared.startswith("sep=") and len(declared) == 5 else 0  # Excel's own word for it
    sample = [line for _, line in start[skip:]]
    delimiter = declared[4] if skip else _delimiter(sample)
    lines = text.lines(problems)
    for _ in range(skip):
        next(lines)
    records = _records(str(text.path), lines, delimiter, problems)
    header = next((cells for _, cells in records), None)
    if header is None:
        return Table([], iter(()), text.notes)
    columns = [name.strip() for name in header]
    while columns and not columns[-1]:
        columns.pop()
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise TableError(f"{text.path}: the column {twice!r} is there twice; rename one")

    def rows() -> Iterator[Row]:
        for number, cells in records:
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(columns):
                message = f"{len(cells)} fields; the header has {len(columns)}"
                problems.append(RowProblem(str(text.path), number, "row", message))
            else:
                yield number, dict(zip(columns, cells, strict=True))

    notes = () if delimiter == "," else (f"fields between {_DELIMITER_NAMES.get(delimiter, repr(delimiter))}",)
    return Table(columns, rows(), (*notes, *text.notes), has_decimal_commas=delimiter == ";")


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that splits most records into as many fields as the header; of several the one with most fields."""

    def fit(delimiter: str) -> tuple[float, int]:
        widths = [len(cells) for cells in csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if cells]
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(width == widths[0] for width in widths) / len(widths), widths[0]

    try:
        return max(DELIMITERS, key=fit)
    except csv.Error:  # a field beyond the limit: the records tell where
        return ","


def _records(
    file: str, lines: Iterator[tuple[int, str]], delimiter: str, problems: Problems
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, cells) of each record. A record whose quotes do not match is its first line
    alone, which is noted; reading goes on with the next line."""
    waiting: deque[tuple[int, str]] = deque()
    while True:
        taken: list[tuple[int, str]] = []

        def feed(taken: list[tuple[int, str]] = taken) -> Iterator[str]:
            while len(taken) < _MOST_LINES:
                line = waiting.popleft() if waiting else next(lines, None)
                if line is None:
                    return
                taken.append(line)
                yield line[1]

        try:
            cells = next(csv.reader(feed(), delimiter=delimiter, skipinitialspace=True, strict=True), None)
        except csv.Error as error:
            message = f"cannot be read as CSV ({error}); is there a stray quote?"
            problems.append(RowProblem(file, taken[0][0], "row", message))
            waiting.extendleft(reversed(taken[1:]))
            continue
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield taken[0][0], cells


def _json_lines(text: TextFile, problems: Problems) -> Table:
    def rows() -> Iterator[Row]:
        for number, line in text.lines(problems):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                problems.append(RowProblem(str(text.path), number, "row", f"not JSON ({error})"))
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                problems.append(RowProblem(str(text.path), number, "row", "not a JSON object"))

    return Table([], rows(), text.notes)


def _json(text: TextFile, problems: Problems) -> Table:
    """One list of objects, alone or the only list in an object; or, whatever the name says, JSON Lines."""
    whole = "".join(line for _, line in text.lines(problems))
    try:
        data = json.loads(whole)
    except (ValueError, RecursionError) as error:
        if len(whole.strip().splitlines()) > 1 and whole.lstrip().startswith("{"):
            return _json_lines(text, problems)
        raise TableError(f"{text.path}: not JSON ({error})") from None
    notes = list(text.notes)
    if isinstance(data, dict):
        lists = {name: part for name, part in data.items() if isinstance(part, list)}
        if len(lists) == 1:
            ((name, data),) = lists.items()
            notes.append(f"the list {name!r}")
    if not isinstance(data, list):
        raise TableError(f"{text.path}: needs a list of objects")

    def rows() -> Iterator[Row]:
        for number, row in enumerate(data, 1):
            if isinstance(row, dict):
                yield number, row
            else:
                problems.append(RowProblem(str(text.path), number, "row", "not a JSON object"))

    return Table([], rows(), tuple(notes))


def _parquet(path: Path, opener: Opener) -> Table:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise TableError("Parquet files need pyarrow: pip install 'ialp[offline]'") from None
    try:
        with opener() as file:
            table = parquet.read_table(arrow.BufferReader(file.read()))
        return Table(table.column_names, enumerate(table.to_pylist(), 1), ())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise TableError(f"{path}: cannot be read as Parquet ({error})") from None


def _workbook(path: Path, opener: Opener) -> Table:
    """The first sheet that has rows; its first row names the columns."""
    try:
        from python_calamine import CalamineError, load_workbook
    except ModuleNotFoundError:
        raise TableError("workbooks need python-calamine: pip install 'ialp[offline]'") from None
    try:
        with opener() as file:
            book = load_workbook(io.BytesIO(file.read()))
        for name in book.sheet_names:
            sheet = book.get_sheet_by_name(name)
            grid = sheet.to_python(skip_empty_area=True)
            if grid:
                break
        else:
            return Table([], iter(()), ())
    except CalamineError as error:
        raise TableError(f"{path}: cannot be read as a workbook ({error})") from None
    columns = [str(cell).strip() for cell in grid[0]]
    rows = (
        (number, {name: cell for name, cell in zip(columns, cells, strict=False) if name})
        for number, cells in enumerate(grid[1:], (sheet.start or (0, 0))[0] + 2)
        if any(cell not in ("", None) for cell in cells)
    )
    others = len(book.sheet_names) - 1
    more = f"; {others} other sheet{'s' if others > 1 else ''} not read" if others else ""
    return Table([name for name in columns if name], rows, (f"sheet {name!r}{more}",))
