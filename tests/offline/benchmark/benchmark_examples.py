"""Small logs with a known truth, for the benchmark's tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline.benchmark.data import Source, UserLog
from offline.benchmark.metrics import Scores
from offline.datasets import Dataset, Interactions, Item, Scenario

TOY = Source("movielens", "Toy", None, "time", min_liked=4, n_history=3, n_held_out=2, disliked_at=2.0)


def log_of(items: Sequence[int], liked: Sequence[bool] | None = None, times: Sequence[int] | None = None) -> UserLog:
    """One user's log, all liked unless told; what is not liked is disliked."""
    n = len(items)
    likes = np.ones(n, np.bool_) if liked is None else np.array(liked, np.bool_)
    at = np.arange(n) if times is None else np.array(times)
    return UserLog(np.array(items, np.int64), likes, ~likes, np.zeros(n, np.bool_), at.astype(np.int64))


def two_camps(n_users: int = 40, n_items: int = 20, n_likes: int = 8, seed: int = 0) -> Interactions:
    """Even users like even items, in random order, one a second."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users, dtype=np.int32), n_likes)
    halves = [rng.choice(np.arange(u % 2, n_items, 2), n_likes, replace=False) for u in range(n_users)]
    liked = np.ones(len(user), np.bool_)
    time = rng.permutation(len(user)).astype(np.int64)
    return Interactions(
        user, np.concatenate(halves).astype(np.int32), liked.astype(np.float32) * 5, liked, time, n_users
    )


def camps_dataset(n_items: int = 20) -> Dataset:
    items = tuple(Item(str(i), f"Item {i}", ("even" if i % 2 == 0 else "odd",)) for i in range(n_items))
    return Dataset("toy", Scenario(), items, two_camps(n_items=n_items))


def camp_embeddings(n_items: int = 20) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Unit rows [A, 2]: the two camps are orthogonal."""
    rows = np.zeros((n_items, 2), np.float32)
    rows[np.arange(n_items), np.arange(n_items) % 2] = 1.0
    return rows


class Oracle:
    """Ranks the camp of the history first; remembers all that it was told."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.asked: list[tuple[int, ...]] = []
        self.told: list[tuple[str, tuple[int, ...]]] = []

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        self.asked += [tuple(history) for history in histories]
        self.told.append(("rank", ()))
        scores = np.zeros((len(histories), self.n_items))
        for row, history in zip(scores, histories, strict=True):
            if history:
                row[history[-1] % 2 :: 2] = 1.0
        return scores

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        self.told.append(("learn", tuple(items)))
