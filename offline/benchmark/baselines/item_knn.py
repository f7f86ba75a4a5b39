"""Item-kNN (Sarwar et al., WWW 2001): items liked by the same users are alike; shrunk cosine of co-likes.

s_ij = n_ij / (sqrt(n_i n_j) + shrinkage),    score(a) = sum over the history of s_ja
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from offline.benchmark.baselines.popularity import popular_to_strangers
from offline.benchmark.data import Floats, Ints, Matrix, liked_matrix
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Method


@dataclass(frozen=True)
class KnnConfig:
    shrinkage: float = 10.0


class ItemKnn:
    """Co-likes so far; learns incrementally, and exactly as a fit to all events at once would."""

    def __init__(self, n_items: int, config: KnnConfig) -> None:
        self._config = config
        self._together: Matrix = np.zeros((n_items, n_items), np.float32)  # n_ij, n_ii = 0
        self._likes: dict[int, list[int]] = {}
        self.counts: Floats = np.zeros(n_items)

    def learn(self, users: Sequence[int], items: Sequence[int]) -> None:
        for user, item in zip(users, items, strict=True):
            liked = self._likes.setdefault(user, [])
            if item not in liked:
                self._together[item, liked] += 1.0
                self._together[liked, item] += 1.0
                self.counts[item] += 1.0
                liked.append(item)

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        scores = liked_matrix(histories, len(self.counts)) @ self.similarity()
        return popular_to_strangers(scores, histories, self.counts)

    def similarity(self) -> Matrix:
        """s [A, A], zero on the diagonal."""
        root = np.sqrt(self.counts).astype(np.float32)
        # An item that nobody liked has no co-likes either: 0 / 1.
        scale = np.outer(root, root) + np.float32(self._config.shrinkage)
        similarity: Matrix = self._together / np.maximum(scale, 1.0)
        return similarity


def fit_item_knn(logs: Sequence[Ints], n_items: int, config: KnnConfig) -> ItemKnn:
    """All users' likes at once."""
    fitted = ItemKnn(n_items, config)
    liked = liked_matrix(logs, n_items)
    together = liked.T @ liked
    fitted.counts = together.diagonal().astype(np.float64)
    np.fill_diagonal(together, 0.0)
    fitted._together = together
    return fitted


CONFIG = KnnConfig()
METHODS: Mapping[str, Method] = {
    "item_knn": Method(
        "Item-kNN",
        "logs",
        lambda context: lambda logs: fit_item_knn(logs, context.n_items, CONFIG),
        lambda context: ItemKnn(context.n_items, CONFIG),
        asdict(CONFIG),
    )
}
