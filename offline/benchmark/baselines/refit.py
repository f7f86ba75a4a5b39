"""A learner out of a method that knows only whole logs: it is fitted again to all events so far, now and then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Fit, Ranker


class Refitted:
    """Fits again after every `every` blocks."""

    def __init__(self, fit: Fit, n_items: int, every: int) -> None:
        self._fit, self._n_items, self._every = fit, n_items, every
        self._likes: dict[int, list[int]] = {}
        self._blocks = 0
        self._fitted: Ranker | None = None

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        if self._fitted is None:
            return np.zeros((len(histories), self._n_items))
        return self._fitted.rank(histories)

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        for user, item in zip(users, items, strict=True):
            self._likes.setdefault(user, []).append(item)
        self._blocks += 1
        if self._blocks % self._every == 0:
            self._fitted = self._fit([np.array(likes, np.int64) for likes in self._likes.values()])
