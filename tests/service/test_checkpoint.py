"""Checkpoints: whole or not at all, with the one before as a fallback."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from service.checkpoint import CheckpointStore


class Meta(msgspec.Struct):
    n: int


def store_of(folder: Path, *numbers: int) -> CheckpointStore[Meta]:
    """A store that saved a checkpoint for each number."""
    store = CheckpointStore(folder, Meta)
    for n in numbers:
        store.save(Meta(n), {"weights": torch.full((3,), float(n)), "counts": torch.tensor(n)})
    return store


def loaded(store: CheckpointStore[Meta]) -> int | None:
    saved = store.load()
    if saved is None:
        return None
    meta, tensors = saved
    assert set(tensors) == {"weights", "counts"} and tensors["weights"].tolist() == [float(meta.n)] * 3
    return meta.n


def test_the_newest_is_loaded(tmp_path: Path) -> None:
    assert loaded(store_of(tmp_path / "new" / "folder")) is None
    store = store_of(tmp_path, 1, 2, 3)
    assert loaded(store) == 3
    assert loaded(CheckpointStore(tmp_path, Meta)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "checkpoint.previous", "new"}


def test_a_crash_between_the_renames_leaves_the_one_before(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1, 2)
    (tmp_path / "checkpoint").unlink()
    assert loaded(store) == 1
    (tmp_path / "checkpoint.unfinished").write_bytes(b"torn")
    assert loaded(store) == 1
    store.save(Meta(3), {"weights": torch.full((3,), 3.0), "counts": torch.tensor(3)})
    assert loaded(store) == 3


def test_a_damaged_newest_is_passed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = store_of(tmp_path, 1, 2)
    latest = tmp_path / "checkpoint"
    whole = latest.read_bytes()
    for length in (0, 1, 31, 32, 33, len(whole) - 1, *rng.integers(0, len(whole), 20)):
        latest.write_bytes(whole[: int(length)])
        assert loaded(store) == 1
    for place in rng.integers(0, len(whole), 30):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        latest.write_bytes(damaged)
        assert loaded(store) == 1


def test_nothing_is_loaded_when_both_are_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, 1, 2)
    rng = np.random.default_rng(1)
    for size in (0, 10, 40, 1000):
        for name in ("checkpoint", "checkpoint.previous"):
            junk = rng.bytes(size)
            (tmp_path / name).write_bytes(hashlib.sha256(junk).digest() + junk)
        assert loaded(store) is None
    assert "checkpoint is damaged" in caplog.text
