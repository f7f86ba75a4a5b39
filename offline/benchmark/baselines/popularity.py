"""Popularity: how many other users liked an item, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from offline.benchmark.data import Floats, Ints
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Method


class Popularity:
    """Counts likes."""

    def __init__(self, n_items: int) -> None:
        self.counts: Floats = np.zeros(n_items)

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        return np.tile(self.counts, (len(histories), 1))

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        np.add.at(self.counts, np.asarray(items, np.int64), 1.0)


def fit_popularity(logs: Sequence[Ints], n_items: int) -> Popularity:
    """Likes of all users."""
    counted = Popularity(n_items)
    for likes in logs:
        counted.learn((), likes.tolist())
    return counted


def popular_to_strangers(scores: Scores, histories: Sequence[Sequence[int]], counts: Floats) -> Scores:
    """Replace the scores [B, A] of users without a history by popularity, as a deployment would."""
    unknown = np.array([not history for history in histories], np.bool_)
    return np.where(unknown[:, None], counts, scores)


METHODS: Mapping[str, Method] = {
    "popularity": Method(
        "Popularity",
        "logs",
        lambda context: lambda logs: fit_popularity(logs, context.n_items),
        lambda context: Popularity(context.n_items),
    )
}
