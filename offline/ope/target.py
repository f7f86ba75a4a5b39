"""The policy to be evaluated, and the log in its terms: rows instead of item ids.

An item that the target has no row for cannot be shown by it: its probability is zero, so are the ratios of the slots
that showed it, and it is left out of histories, as in the service. An item of the snapshot that the log's catalogue did
not have could not be shown by the logged policies: it is not available to the target either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline.errors import OfflineError
from offline.ope.log import Log, read_items
from service.policy.exact_policy import ExactPolicy
from service.policy.indexed_log import IndexedLog, index_slates
from service.policy.snapshot import SnapshotError
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.text import TEXT_DIM, Embeddings
from service.policy.variants import Arm

_EMBEDDINGS = "embeddings.safetensors"  # a snapshot that carries its catalogue has this file


@dataclass(frozen=True)
class Target:
    """An arm of a snapshot, for A items."""

    version: int
    arm: Arm
    policy: ExactPolicy
    item_ids: tuple[str, ...]  # [A]
    text: Tensor  # [A, d], projected


def open_target(folder: Path, arm: Arm, items: Path | None = None) -> Target:
    """Read a snapshot. With `items` (of the export) it also scores items that came after it, by their text, as the
    service does; without, the snapshot must carry its catalogue, and its items are all there are.

    Raises:
        OfflineError: the snapshot or `items` cannot be read, or they do not belong together.
    """
    try:
        snapshot = load_snapshot(folder)
        if items is not None:
            item_ids, embeddings = _with_newer(snapshot.item_ids, folder, items)
        elif _EMBEDDINGS in snapshot.manifest.files:
            item_ids, embeddings = snapshot.item_ids, load_catalogue(folder).embeddings
        else:
            raise OfflineError(
                f"{folder}: carries no text embeddings; give --items (`python -m service export --items`)"
            )
    except SnapshotError as error:
        raise OfflineError(str(error)) from None
    text = snapshot.projection(torch.from_numpy(embeddings))
    return Target(snapshot.manifest.version, arm, snapshot.exact_policy(text), item_ids, text)


def _with_newer(item_ids: tuple[str, ...], folder: Path, items: Path) -> tuple[tuple[str, ...], Embeddings]:
    """The snapshot's items, then those that only the exported catalogue has; all with embeddings from there."""
    found, rows = read_items(items)
    if len(rows[0]) != TEXT_DIM:
        raise OfflineError(f"{items}: embedding: has {len(rows[0])} values, expected {TEXT_DIM}")
    place = {item: row for row, item in enumerate(found)}
    missing = next((item for item in item_ids if item not in place), None)
    if missing is not None:
        raise OfflineError(f"{items}: item_id: {missing!r} of {folder} is missing; export both from one service")
    of_snapshot = frozenset(item_ids)
    ids = (*item_ids, *(item for item in found if item not in of_snapshot))
    return ids, np.array([rows[place[item]] for item in ids], np.float32)


def index_log(log: Log, target: Target) -> IndexedLog:
    """The log in the target's rows; every slate must have a slot."""
    index = {item: row for row, item in enumerate(target.item_ids)}
    return index_slates(log.slates, index, target.policy.max_history, target.policy.config.largest_reward)


def available(log: Log, target: Target, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[B, A] what the slates `rows` [B] of the log could show, exactly as their propensities were computed."""
    index = {item: row for row, item in enumerate(target.item_ids)}
    place = {item: n for n, item in enumerate(log.catalogue)}
    never = np.iinfo(np.int64).max
    places = np.array([place.get(item, never) for item in target.item_ids])
    result = np.zeros((len(rows), len(places)), np.bool_)
    for mask, slate in zip(result, (log.slates[row] for row in rows), strict=True):
        existing = places < slate.n_items
        if slate.candidates is None:
            mask[:] = existing
        else:
            allowed = [index[item] for item in slate.candidates if item in index]
            mask[allowed] = existing[allowed]
        mask[[index[item] for item in (*slate.hidden, *slate.masked) if item in index]] = False
        mask[[index[item] for item in slate.items if item in index]] = True  # matters where not `verified`
    return result
