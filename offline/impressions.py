"""What a log says was shown: slates, and which of their items were liked."""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.tables.interactions import Shown

NO_ITEM = -1  # in an empty slot; `service.policy.types.EMPTY_SLOT`, without its torch
MOST_SLOTS = 20  # of a slate, from its first place on: further down nobody may have looked


@dataclass(frozen=True)
class Impressions:
    """N slates of K slots each; users are numbered as in `Interactions`, which has the answers as well."""

    user: npt.NDArray[np.int32]  # [N]
    time: npt.NDArray[np.int64]  # [N], as in `Interactions`
    items: npt.NDArray[np.int32]  # [N, K], index into Dataset.items, from the first place on; NO_ITEM where none is
    liked: npt.NDArray[np.bool_]  # [N, K]
    propensities: npt.NDArray[np.float32]  # [N, K], with which each was chosen; not a number where that is not known

    @property
    def filled(self) -> npt.NDArray[np.bool_]:
        """[N, K] whether a slot has an item."""
        return np.not_equal(self.items, NO_ITEM)

    def notes(self) -> list[str]:
        """Tell how many there are."""
        n = int(self.filled.sum())
        known = np.isfinite(self.propensities[self.filled]).all() if n else False
        return [
            f"{len(self.user):,} slates of {n:,} items shown, {self.liked.sum() / max(n, 1):.1%} of them liked"
            + (", with propensities" if known else "")
        ]


def index_impressions(
    slates: Sequence[Shown],
    likes: Iterable[tuple[str, str]],
    item_index: Mapping[Hashable, int],
    user_index: dict[Hashable, int],
) -> Impressions:
    """Number users and items; items that are not in `item_index` leave their slots empty, and slates without any item
    are left out. What a slate's user liked of it, `likes` say as (slate, item)."""
    liked = set(likes)
    found: dict[str, Shown] = {}
    for slate in slates:
        found.setdefault(slate.slate, slate)
    kept = [s for s in found.values() if any(item in item_index for item in s.items[:MOST_SLOTS])]
    width = max((min(len(s.items), MOST_SLOTS) for s in kept), default=0)
    items = np.full((len(kept), width), NO_ITEM, np.int32)
    is_liked, chances = np.zeros(items.shape, np.bool_), np.full(items.shape, np.nan, np.float32)
    users = np.zeros(len(kept), np.int32)
    for row, slate in enumerate(kept):
        users[row] = user_index.setdefault(slate.user, len(user_index))
        for slot, item in enumerate(slate.items[:MOST_SLOTS]):
            if item in item_index:
                items[row, slot], is_liked[row, slot] = item_index[item], (slate.slate, item) in liked
                if slate.propensities is not None:
                    chances[row, slot] = slate.propensities[slot]
    time = np.array([s.line if s.time is None else s.time for s in kept], np.int64)
    return Impressions(users, time, items, is_liked, chances)


_TYPES = {"user": "int32", "time": "int64", "slot": "int32", "item": "int32", "liked": "bool", "propensity": "float32"}


def to_parquet(impressions: Impressions) -> bytes:
    """A row for each filled slot; `slate` counts from 0 on."""
    import pyarrow
    import pyarrow.parquet

    slate, slot = np.nonzero(impressions.filled)
    columns = {
        "slate": slate.astype(np.int32),
        "user": impressions.user[slate],
        "time": impressions.time[slate],
        "slot": slot.astype(np.int32),
        "item": impressions.items[slate, slot],
        "liked": impressions.liked[slate, slot],
        "propensity": impressions.propensities[slate, slot],
    }
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def from_parquet(path: Path, n_users: int, n_items: int) -> Impressions:
    """Inverse of `to_parquet`.

    Raises:
        ValueError: it has columns of another type, or users, items and slots that there are not.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in ("slate", *_TYPES)}
    types = {name: str(column.dtype) for name, column in columns.items()}
    if types != {"slate": "int32", **_TYPES}:
        raise ValueError(f"columns of types {types}")
    slate, slot = columns["slate"], columns["slot"]
    for name, n in (("user", n_users), ("item", n_items), ("slot", MOST_SLOTS), ("slate", len(slate))):
        if len(slate) and not 0 <= columns[name].min() <= columns[name].max() < n:
            raise ValueError(f"column {name!r} is not within 0 .. {n - 1}")
    shape = (slate.max(initial=-1) + 1, slot.max(initial=-1) + 1)
    user, time = np.zeros(shape[0], np.int32), np.zeros(shape[0], np.int64)
    user[slate], time[slate] = columns["user"], columns["time"]
    items = np.full(shape, NO_ITEM, np.int32)
    liked, chances = np.zeros(shape, np.bool_), np.full(shape, np.nan, np.float32)
    items[slate, slot], liked[slate, slot] = columns["item"], columns["liked"]
    chances[slate, slot] = columns["propensity"]
    return Impressions(user, time, items, liked, chances)
