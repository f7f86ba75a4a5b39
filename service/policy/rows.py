"""Numbers of items, one row each, to which more can be added without a copy of the present ones."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", bound=np.generic)

_ON_DISK = 64 * 2**20  # bytes from which rows are kept in a file
_ROOM = 8  # a full store gets room for 1/8 more, and for some in any case
_SOME = 1024


class Rows(Generic[Number]):
    """Rows [n, width]. `array` shows those that are there; what was shown before stays as it is.

    With a `folder` many rows are kept in a nameless file there, which the kernel may push out of memory: it ends with
    this object.
    """

    def __init__(self, array: npt.NDArray[Number], n: int | None = None, folder: Path | None = None) -> None:
        """Takes over `array` [room, width], whose first `n` rows, or all, are there.

        Raises:
            OSError: the folder has no room for that many.
        """
        self.folder = folder
        self._file: mmap.mmap | None = None
        self._n = len(array) if n is None else n
        self._all = array  # [room, width]
        if folder is not None and array.nbytes >= _ON_DISK:
            self._move(self._n)

    def __len__(self) -> int:
        return self._n

    @property
    def array(self) -> npt.NDArray[Number]:
        """[n, width] a view."""
        return self._all[: self._n]

    def reserve(self, n: int) -> None:
        """Make room for `n` rows in all.

        Raises:
            OSError: the folder has no room for that many; nothing has changed.
        """
        if n > len(self._all):
            self._move(n + n // _ROOM + _SOME)

    def append(self, more: npt.NDArray[Number]) -> None:
        """Add `more` [m, width].

        Raises:
            OSError: the folder has no room for that many; nothing has changed.
        """
        n = self._n + len(more)
        self.reserve(n)
        self._all[self._n : n] = more
        self._n = n

    def grown(self, n: int, more: npt.NDArray[Number]) -> Rows[Number]:
        """The first `n` rows and then `more`: these rows themselves, unless others came after the n already."""
        rows = self if n == self._n else Rows(self._all[:n].copy(), folder=self.folder)
        rows.append(more)
        return rows

    def forget(self) -> None:
        """Let go of the memory of rows that are in a file; they come back when they are read."""
        if self._file is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._file.madvise(mmap.MADV_DONTNEED)

    def _move(self, room: int) -> None:
        """Move the rows to a new array with room for `room` of them."""
        shape = (room, *self._all.shape[1:])
        n_bytes = int(np.prod(shape)) * self._all.itemsize
        if self.folder is not None and n_bytes >= _ON_DISK:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                if hasattr(os, "posix_fallocate"):  # without it a full disk would be a signal, and not an error
                    os.posix_fallocate(file.fileno(), 0, n_bytes)
                else:
                    file.truncate(n_bytes)
                mapped = mmap.mmap(file.fileno(), n_bytes)
            place = np.frombuffer(mapped, self._all.dtype).reshape(shape)
            place[: self._n] = self._all[: self._n]
            self._file = mapped
        else:
            place = np.empty(shape, self._all.dtype)
            place[: self._n] = self._all[: self._n]
        self._all = place
