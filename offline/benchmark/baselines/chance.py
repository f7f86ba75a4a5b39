"""Chance: every item is as likely to come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Method


class Chance:
    """Ranks at random and learns nothing."""

    def __init__(self, n_items: int, seed: int) -> None:
        self._n_items, self._rng = n_items, np.random.default_rng(seed)

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        return self._rng.random((len(histories), self._n_items))

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        """Nothing."""


METHODS: Mapping[str, Method] = {
    "random": Method(
        "Random",
        "chance",
        lambda context: lambda logs: Chance(context.n_items, context.seed),
        lambda context: Chance(context.n_items, context.seed),
    )
}
