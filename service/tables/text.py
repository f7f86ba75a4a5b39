"""Lines of a text file in whatever encoding it is."""

from __future__ import annotations

import codecs
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from service.tables.problems import Problems, RowProblem, TableError

Opener = Callable[[], IO[bytes]]

UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError)
"""What reading a damaged file may raise."""

_SAMPLE_BYTES = 1 << 18  # that tell the encoding
_MOSTLY = 0.9  # of the lines with other than ASCII characters: then the file is UTF-8, and the others are bad rows
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class TextFile:
    """Lines of a text file in its encoding."""

    def __init__(self, path: Path, opener: Opener, encoding: str | None) -> None:
        self.path, self._open = path, opener
        self.encoding = encoding or self._recognised()
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise TableError(f"{path}: {self.encoding!r} is not an encoding that Python knows") from None

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
            raise TableError(f"{self.path}: not {self.encoding} text ({error.reason}); name its --encoding") from None
        except UNREADABLE as error:
            raise TableError(f"{self.path}: cannot be read after line {number} ({error})") from None


def _guessed(sample: bytes) -> str | None:
    """The most likely encoding of some lines that are not UTF-8."""
    try:
        from charset_normalizer import from_bytes
    except ModuleNotFoundError:
        raise TableError("files that are not UTF-8 need charset-normalizer: pip install 'ialp[offline]'") from None
    # A line or two say little: of the encodings that fit, the one that programs for offices write comes first.
    candidates = from_bytes(sample, cp_isolation=None if len(sample) > 1_000 else ["cp1252", "utf_16_le", "utf_16_be"])
    best = candidates.best()
    return None if best is None else best.encoding
