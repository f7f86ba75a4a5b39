"""The log in Open Bandit Pipeline's form, from Redis alone: rows and texts are those of the catalogue as it is now.

Contexts are the bulk of it, over four kilobytes a round; they are made while they are written. What has to be held are
some dozens of bytes a slot and the texts of all items, and whoever serves requests meanwhile sets limits to both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import redis as syncredis

from service.export.files import ExportError, exported
from service.export.rows import Export, logged_slates, open_export
from service.policy.bandit_feedback import bandit_feedback, npz
from service.policy.indexed_log import IndexedLog, index_slates
from service.policy.text import TEXT_DIM, Embeddings
from service.store.catalogue import unpack_embedding
from service.store.keys import Keys

_BATCH = 1024


@dataclass(frozen=True)
class Limits:
    """The most that an export may hold."""

    rounds: int = 100_000
    items: int = 100_000


class TooLarge(ExportError):
    """There is more to export than the limits allow."""

    def __init__(self, limit: int, what: str) -> None:
        super().__init__(
            f"There are more than {limit:,} {what}; `python -m service export --obp FILE.npz` writes any number of them"
        )


def write_obp(
    path: Path,
    redis: syncredis.Redis,
    keys: Keys,
    reward_window_s: float,
    on_read: Callable[[int], None] = lambda n: None,
) -> Counter[str]:
    """Write all of the log to `path`, which appears whole or not at all; returns what was counted.

    `on_read` is called with the number of entries read, of the log twice.

    Raises:
        ExportError: the file cannot be written.
    """
    counts, parts = obp_file(redis, keys, reward_window_s, on_read=on_read)
    with exported(path) as file:
        for part in parts:
            file.write(part)
    return counts


def obp_file(
    redis: syncredis.Redis,
    keys: Keys,
    reward_window_s: float,
    limits: Limits | None = None,
    on_read: Callable[[int], None] = lambda n: None,
) -> tuple[Counter[str], Iterator[bytes]]:
    """Return the counts and the file's bytes: obp's fields, and `item_ids` [A], whose rows are the actions.

    All is read when this returns; the bytes are made as they are taken, without Redis.

    Raises:
        TooLarge: there is more than `limits` allow; found out before any of it is made.
    """
    if limits is not None and redis.hlen(keys.item_index) > limits.items:
        raise TooLarge(limits.items, "items")
    export = open_export(redis, keys)
    export.on_read = on_read
    logs = _indexed(redis, keys, export, reward_window_s, limits)
    arrays = bandit_feedback(logs, _text(export)) | {"item_ids": np.array(export.catalogue, np.str_)}
    export.counts["rounds"] = arrays["n_rounds"]
    return export.counts, npz(arrays)


def _indexed(
    redis: syncredis.Redis, keys: Keys, export: Export, reward_window_s: float, limits: Limits | None
) -> list[IndexedLog]:
    """The log as arrays, some slates at a time: as objects they are a hundred times as large."""
    index = {item: row for row, item in enumerate(export.catalogue)}
    slates = (slate for slate in logged_slates(redis, keys, export, reward_window_s) if slate.items)
    logs: list[IndexedLog] = []
    rounds = 0
    while batch := list(islice(slates, _BATCH)):
        logs.append(index_slates(batch, index, max(len(slate.history_items) for slate in batch)))
        rounds += int(logs[-1].filled.sum())
        if limits is not None and rounds > limits.rounds:
            raise TooLarge(limits.rounds, "logged slots")
    return logs


def _text(export: Export) -> Embeddings:
    """[A, TEXT_DIM], zeros where nothing is known of an item any more."""
    text = np.zeros((len(export.catalogue), TEXT_DIM), np.float32)
    for row, item in enumerate(export.catalogue):
        record = export.records.get(item)
        text[row] = unpack_embedding(record.embedding if record is not None else b"")
    return text
