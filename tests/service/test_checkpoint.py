"""Checkpoints: whole or not at all, with the one before as a fallback."""

from __future__ import annotations

import hashlib
import resource
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from service.store.checkpoint import CheckpointStore


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
    assert [path.name[-2:] for path in checkpoints(tmp_path)] == ["02", "03"]


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"))


def test_a_crash_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1, 2)
    (tmp_path / "unfinished-000000000000").write_bytes(b"torn")
    assert loaded(store) == 2
    store.save(Meta(3), {"weights": torch.full((3,), 3.0), "counts": torch.tensor(3)})
    assert loaded(store) == 3 and not list(tmp_path.glob("unfinished*"))


def test_a_full_disk_leaves_the_one_before_and_no_litter(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.save(Meta(3), {"weights": torch.zeros(1000), "counts": torch.tensor(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert loaded(store) == 2 and not list(tmp_path.glob("unfinished*"))


def test_a_writer_that_was_replaced_never_hides_its_successors_work(tmp_path: Path) -> None:
    """However late the old one wakes up, what the new one wrote is what is loaded and stays."""

    def save(token: int, n: int) -> None:
        store = CheckpointStore(tmp_path, Meta, token)
        store.save(Meta(n), {"weights": torch.full((3,), float(n)), "counts": torch.tensor(n)})

    save(1, 10)
    save(2, 20)
    save(1, 11)
    save(1, 12)
    assert loaded(CheckpointStore(tmp_path, Meta, 2)) == 20
    save(2, 21)
    assert loaded(CheckpointStore(tmp_path, Meta, 3)) == 21
    assert len(checkpoints(tmp_path)) == 2, "and the old one's are cleared away"


def test_a_damaged_newest_is_passed_over(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = store_of(tmp_path, 1, 2)
    latest = checkpoints(tmp_path)[-1]
    whole = latest.read_bytes()
    for length in (0, 1, 31, 32, 33, len(whole) - 1, *rng.integers(0, len(whole), 20)):
        latest.write_bytes(whole[: int(length)])
        assert loaded(store) == 1
    for place in rng.integers(0, len(whole), 30):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        latest.write_bytes(damaged)
        assert loaded(store) == 1
    assert (tmp_path / "damaged").exists() and len(checkpoints(tmp_path)) == 1


def test_nothing_is_loaded_when_both_are_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, 1, 2)
    rng = np.random.default_rng(1)
    for size in (0, 10, 40, 1000):
        for name in ("checkpoint-000000000000-000000000001", "checkpoint-000000000000-000000000002"):
            junk = rng.bytes(size)
            (tmp_path / name).write_bytes(hashlib.sha256(junk).digest() + junk)
        assert loaded(store) is None
    assert "000002 is damaged" in caplog.text
