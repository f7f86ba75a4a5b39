"""Durable writes: a file or a folder appears whole or not at all, and what appeared outlasts a loss of power.

Contents are synced before the rename, and the parent folder after it. Imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o644, unfinished: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that gets the name `path`, and replaces what had it, once the block is left without an error.

    `unfinished`: its name until then, for a single writer whose kills must not leave one file each; else a new one.

    Raises:
        OSError: it cannot be written; what was at `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if unfinished is None:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    else:
        name = os.fspath(unfinished)
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # what it takes up may be what is missing
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` so that a reader, or a crash at any instant, sees the old file or the new one, never a part.

    Raises:
        OSError: it cannot be written; what was at `path` is as it was.
    """
    with whole_file(path, mode) as file:
        file.write(data)


def write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    """Make a new folder with the files `contents`, by name.

    Raises:
        OSError: it cannot be written, or there is something at `folder`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        unfinished.chmod(0o755)
        for name, data in contents.items():
            with (unfinished / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(unfinished)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
