"""Valid data with something wrong in it: what damage and malice make of files and of entries in Redis."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

LONG = bool(os.environ.get("IALP_LONG"))
# Lengths and counts that no file has: 2**60 in both byte orders, all ones, and msgpack's largest heads.
_HOSTILE_BYTES = [
    (2**60).to_bytes(8, "little"),
    (2**60).to_bytes(8, "big"),
    b"\xff" * 8,
    b"\x00" * 8,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 300,
    b"[" * 300,
    b"\xff\xfe",
    b'"\\ud800"',
    b"NaN",
    b"1e999",
]
_HOSTILE_VALUES: list[Any] = [None, True, -1, 0, 2**60, -(2**60), 10**400, 1e308, -1e308, 0.5, float("nan")]
_HOSTILE_VALUES += [float("inf"), "", "x", "\ud800", "\x00", "9" * 40, [], {}, [[]], [None], {"": None}, [2**60, 2**60]]
_HOSTILE_VALUES += [[0] * 50, {str(n): n for n in range(20)}, "../../../etc/passwd"]


def searched(short: int, long: int) -> hypothesis.settings:
    """Repeatable, and longer where IALP_LONG is set (`make security`)."""
    return hypothesis.settings(
        max_examples=long if LONG else short,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def bounded_memory(more: int = 2**30) -> Iterator[None]:
    """Inside, no more than `more` bytes can be had: what a length field of 2**60 asks for is a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@st.composite
def mutated(draw: st.DrawFn, blob: bytes) -> bytes:
    """One to three of: flipped bits, cut, left out, repeated, overwritten or put in."""
    data = bytearray(blob)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), start + draw(st.integers(1, 24)))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "repeat", "overwrite", "insert"]))
        if kind == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[start:]
        elif kind == "drop":
            del data[start:end]
        elif kind == "repeat":
            data[end:end] = data[start:end] * draw(st.integers(1, 40))
        else:
            hostile = draw(st.sampled_from(_HOSTILE_BYTES) | st.binary(min_size=1, max_size=8))
            data[start : start + (len(hostile) if kind == "overwrite" else 0)] = hostile
    return bytes(data)


@st.composite
def mutated_json(draw: st.DrawFn, value: Any) -> Any:
    """The same document with one to three values replaced, left out or moved to another name."""
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


def _changed(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict | list) and value and draw(st.integers(0, 9)):
        copy = value.copy()
        place = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
        action = draw(st.sampled_from(["deeper"] * 6 + ["drop", "rename"]))
        if action == "drop":
            del copy[place]
        elif action == "rename" and isinstance(copy, dict):
            copy[draw(st.sampled_from([f"{place}x", "", place.upper()]))] = copy.pop(place)
        else:
            copy[place] = _changed(draw, copy[place])
        return copy
    return draw(st.sampled_from(_HOSTILE_VALUES))
