"""Tables as people have them: CSV of any dialect and encoding, Excel, JSON and Parquet, compressed or not.

What was recognised is told (`Table.notes`); what a row lacks costs that row alone.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from offline.datasets import RowProblem, import_pyarrow
from offline.errors import OfflineError

Problems = list[RowProblem]
Row = tuple[int, Mapping[str, Any]]  # line (or row) number from 1, cells by column

FORMATS = ".csv, .tsv, .jsonl, .json, .parquet or .xlsx (also .xls, .ods), also packed as .gz, .bz2, .xz or .zip"
DELIMITERS = (",", ";", "\t", "|")
_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SAMPLE_LINES = 100  # that tell the delimiter
_SAMPLE_BYTES = 1 << 18  # that tell the encoding
_MOST_LINES = 200  # of one CSV record: a quote that stays open must not swallow the rest of the file
_MOSTLY = 0.9  # of the lines with other than ASCII characters: then the file is UTF-8, and the others are bad rows
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)


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
        OfflineError: the file is missing, of an unknown format, or cannot be read at all; also while rows are read.
    """
    opener, packing, suffix = _unpacked(path)
    notes = [packing] if packing else []
    readers: dict[str, Callable[[], Table]] = {
        ".parquet": lambda: _parquet(path, opener),
        **dict.fromkeys((".xlsx", ".xls", ".ods"), lambda: _workbook(path, opener)),
        **dict.fromkeys((".jsonl", ".ndjson"), lambda: _json_lines(_Text(path, opener, encoding), problems)),
        ".json": lambda: _json(_Text(path, opener, encoding), problems),
        **dict.fromkeys((".csv", ".tsv", ".txt"), lambda: _csv(_Text(path, opener, encoding), problems)),
    }
    reader = readers.get(suffix)
    if reader is None:
        raise OfflineError(f"{path}: unknown format; name it {FORMATS}")
    try:
        table = reader()
    except FileNotFoundError:
        raise OfflineError(f"{path}: not found") from None
    except _UNREADABLE as error:
        raise OfflineError(f"{path}: cannot be read ({error})") from None
    return Table(table.columns, table.rows, (*notes, *table.notes), table.has_decimal_commas)


Opener = Callable[[], IO[bytes]]


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
            raise OfflineError(f"{path}: not found") from None
        except _UNREADABLE as error:
            raise OfflineError(f"{path}: cannot be read ({error})") from None
        if len(names) != 1:
            raise OfflineError(f"{path}: holds {len(names)} files; unpack it and name one of them")
        return lambda: zipfile.ZipFile(path).open(names[0]), "unpacked from zip", Path(names[0]).suffix.lower()
    return lambda: path.open("rb"), "", suffix


class _Text:
    """Lines of a text file in its encoding."""

    def __init__(self, path: Path, opener: Opener, encoding: str | None) -> None:
        self.path, self._open = path, opener
        self.encoding = encoding or self._recognised()
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise OfflineError(f"{path}: {self.encoding!r} is not an encoding that Python knows") from None

    @property
    def notes(self) -> tuple[str, ...]:
        """The encoding, where it is not the usual one."""
        return () if self.encoding in ("utf-8", "utf-8-sig") else (f"encoding {self.encoding}",)

    def _recognised(self) -> str:
        """Recognise it by the byte order mark; else UTF-8 where nearly all lines are, else by its letters."""
        good = bad = 0
        sample: list[bytes] = []
        with self._open() as file:
            for n, line in enumerate(file):
                if n == 0:
                    for mark, name in _BOMS:
                        if line.startswith(mark):
                            return name
                    if b"\0" in line:
                        sample = [line, file.read(_SAMPLE_BYTES)]
                        good, bad = 0, 1
                        break
                if line.isascii():
                    continue
                try:
                    line.decode()
                    good += 1
                except UnicodeDecodeError:
                    bad += 1
                    if sum(map(len, sample)) < _SAMPLE_BYTES:
                        sample.append(line)
        if bad == 0 or good > _MOSTLY * (good + bad):
            return "utf-8"
        return _guessed(b"".join(sample)) or "utf-8"

    def lines(self, problems: Problems) -> Iterator[tuple[int, str]]:
        """Yield (line number from 1, text with its line end). A line that cannot be decoded is noted and left out."""
        number = 0
        try:
            with self._open() as file:
                if self.encoding.replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32")):
                    text = io.TextIOWrapper(file, self.encoding, newline="")
                    yield from enumerate(text, 1)
                    return
                for number, line in enumerate(file, 1):
                    try:
                        yield (
                            number,
                            line.decode("utf-8-sig" if number == 1 and self.encoding == "utf-8" else self.encoding),
                        )
                    except UnicodeDecodeError as error:
                        message = f"not {self.encoding} text ({error.reason})"
                        problems.append(RowProblem(str(self.path), number, "row", message))
        except UnicodeDecodeError as error:
            raise OfflineError(f"{self.path}: not {self.encoding} text ({error.reason}); name its --encoding") from None
        except _UNREADABLE as error:
            raise OfflineError(f"{self.path}: cannot be read after line {number} ({error})") from None


def _guessed(sample: bytes) -> str | None:
    """The most likely encoding of some lines that are not UTF-8."""
    try:
        from charset_normalizer import from_bytes
    except ModuleNotFoundError:
        raise OfflineError("files that are not UTF-8 need charset-normalizer: pip install 'ialp[offline]'") from None
    # A line or two say little: of the encodings that fit, the one that programs for offices write comes first.
    candidates = from_bytes(sample, cp_isolation=None if len(sample) > 1_000 else ["cp1252", "utf_16_le", "utf_16_be"])
    best = candidates.best()
    return None if best is None else best.encoding


def _csv(text: _Text, problems: Problems) -> Table:
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
        raise OfflineError(f"{text.path}: the column {twice!r} is there twice; rename one")

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


def _json_lines(text: _Text, problems: Problems) -> Table:
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


def _json(text: _Text, problems: Problems) -> Table:
    """One list of objects, alone or the only list in an object; or, whatever the name says, JSON Lines."""
    whole = "".join(line for _, line in text.lines(problems))
    try:
        data = json.loads(whole)
    except (ValueError, RecursionError) as error:
        if len(whole.strip().splitlines()) > 1 and whole.lstrip().startswith("{"):
            return _json_lines(text, problems)
        raise OfflineError(f"{text.path}: not JSON ({error})") from None
    notes = list(text.notes)
    if isinstance(data, dict):
        lists = {name: part for name, part in data.items() if isinstance(part, list)}
        if len(lists) == 1:
            ((name, data),) = lists.items()
            notes.append(f"the list {name!r}")
    if not isinstance(data, list):
        raise OfflineError(f"{text.path}: needs a list of objects")

    def rows() -> Iterator[Row]:
        for number, row in enumerate(data, 1):
            if isinstance(row, dict):
                yield number, row
            else:
                problems.append(RowProblem(str(text.path), number, "row", "not a JSON object"))

    return Table([], rows(), tuple(notes))


def _parquet(path: Path, opener: Opener) -> Table:
    arrow, parquet = import_pyarrow()
    try:
        with opener() as file:
            table = parquet.read_table(arrow.BufferReader(file.read()))
        return Table(table.column_names, enumerate(table.to_pylist(), 1), ())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise OfflineError(f"{path}: cannot be read as Parquet ({error})") from None


def _workbook(path: Path, opener: Opener) -> Table:
    """The first sheet that has rows; its first row names the columns."""
    try:
        from python_calamine import CalamineError, load_workbook
    except ModuleNotFoundError:
        raise OfflineError("workbooks need python-calamine: pip install 'ialp[offline]'") from None
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
        raise OfflineError(f"{path}: cannot be read as a workbook ({error})") from None
    columns = [str(cell).strip() for cell in grid[0]]
    rows = (
        (number, {name: cell for name, cell in zip(columns, cells, strict=False) if name})
        for number, cells in enumerate(grid[1:], (sheet.start or (0, 0))[0] + 2)
        if any(cell not in ("", None) for cell in cells)
    )
    others = len(book.sheet_names) - 1
    more = f"; {others} other sheet{'s' if others > 1 else ''} not read" if others else ""
    return Table([name for name in columns if name], rows, (f"sheet {name!r}{more}",))
