"""A wall clock that can be set while a process runs, by a small library before the system's (needs a C compiler)."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest


class Clock:
    """The clock of processes that are started with `environment`; skips the test where there is no compiler."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler for the movable clock; an entry of an hour ahead stands in")
        library = folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        self._file = folder / "clock"
        self._file.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Be wrong by so much."""
        with self._file.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("q", seconds))
