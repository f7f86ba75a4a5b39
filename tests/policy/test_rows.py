"""Rows that grow at their end, in memory and in a file."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from service.policy import rows as rows_module
from service.policy.rows import Rows


def numbers(start: int, stop: int) -> np.ndarray:
    return np.arange(3 * start, 3 * stop, dtype=np.float32).reshape(-1, 3)


@pytest.fixture(params=["in memory", "in a file"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rows[np.float32]]:
    in_file = request.param == "in a file"
    with mock.patch.object(rows_module, "_ON_DISK", 1 if in_file else 2**40):
        yield Rows(numbers(0, 5), folder=tmp_path)
    assert list(tmp_path.iterdir()) == [], "the file has no name"


def test_what_was_seen_stays_while_more_comes(rows: Rows[np.float32]) -> None:
    before = rows.array
    for n in range(5, 3000, 7):
        rows.append(numbers(n, n + 7))
        rows.forget()
    np.testing.assert_array_equal(rows.array, numbers(0, len(rows)))
    np.testing.assert_array_equal(before, numbers(0, 5))


def test_two_that_grow_from_one_do_not_disturb_each_other(rows: Rows[np.float32]) -> None:
    one = rows.grown(5, numbers(100, 102))
    other = rows.grown(5, numbers(200, 203))
    assert one is rows and other is not rows
    np.testing.assert_array_equal(one.array, np.concatenate([numbers(0, 5), numbers(100, 102)]))
    np.testing.assert_array_equal(other.array, np.concatenate([numbers(0, 5), numbers(200, 203)]))


def test_rows_with_room_take_more_without_a_move() -> None:
    rows = Rows(np.zeros((8, 3), np.float32), 5)
    place = rows.array
    rows.append(numbers(5, 8))
    assert len(rows) == 8 and np.shares_memory(place, rows.array)


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_room_on_the_disk_nothing_changes(tmp_path: Path) -> None:
    with mock.patch.object(rows_module, "_ON_DISK", 1):
        rows = Rows(numbers(0, 5), folder=tmp_path)
        with files_up_to(1000), pytest.raises(OSError, match="File too large"):
            rows.append(numbers(5, 500))
        np.testing.assert_array_equal(rows.array, numbers(0, 5))
        rows.append(numbers(5, 500))
        np.testing.assert_array_equal(rows.array, numbers(0, 500))
