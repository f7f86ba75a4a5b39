"""The policy to be evaluated, and the log in its terms: rows instead of item ids.

An item that the target has no row for cannot be shown by it: its probability is zero, so are the ratios of the slots
that showed it, and it is left out of histories, as in the service. An item of the snapshot that the log's catalogue did
not have could not be shown by the logged policies: it is not available to the target either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline.errors import OfflineError
from offline.ope.log import Log, read_items
from service.policy.adaptive import Arm
from service.policy.exact_policy import ExactPolicy
from service.policy.sampling import Probs
from service.policy.snapshot import SnapshotError, load_catalogue, load_snapshot
from service.policy.text import TEXT_DIM, Embeddings
from service.policy.types import EMPTY_SLOT, Interaction, Response, States, pack_states

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
    known = frozenset(item_ids)
    ids = (*item_ids, *(item for item in found if item not in known))
    return ids, np.array([rows[place[item]] for item in ids], np.float32)


class IndexedLog(NamedTuple):
    """S slates of at most K slots, in the target's rows."""

    states: States  # of S sessions
    shown: npt.NDArray[np.int64]  # [S, K], EMPTY_SLOT where there is no slot, or no row for its item
    filled: npt.NDArray[np.bool_]  # [S, K], whether there is a slot
    rewards: Probs  # [S, K], 0 where there is no slot
    propensities: Probs  # [S, K], 1 where there is no slot
    user: npt.NDArray[np.int64]  # [S], users by number


def index_log(log: Log, target: Target) -> IndexedLog:
    """The log in the target's rows; every slate must have a slot."""
    index = {item: row for row, item in enumerate(target.item_ids)}
    users: dict[str, int] = {}
    shape = len(log.slates), max((len(slate.items) for slate in log.slates), default=0)
    shown, filled = np.full(shape, EMPTY_SLOT), np.zeros(shape, np.bool_)
    rewards, propensities = np.zeros(shape), np.ones(shape)
    histories = []
    for row, slate in enumerate(log.slates):
        k = len(slate.items)
        assert k > 0
        shown[row, :k] = [index.get(item, EMPTY_SLOT) for item in slate.items]
        filled[row, :k] = True
        rewards[row, :k], propensities[row, :k] = slate.rewards, slate.propensities
        past = zip(slate.history_items, slate.history_rewards, strict=True)
        histories.append([Interaction(index[item], Response.of(reward)) for item, reward in past if item in index])
    user = np.array([users.setdefault(slate.user, len(users)) for slate in log.slates], np.int64)
    return IndexedLog(pack_states(histories, target.policy.max_history), shown, filled, rewards, propensities, user)


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
