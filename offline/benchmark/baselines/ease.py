"""EASE (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019): a linear item-item model.

B = I - P diag(P)^-1 with P = (X'X + ridge I)^-1,    score = x B
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from offline.benchmark.baselines.popularity import popular_to_strangers
from offline.benchmark.baselines.refit import Refitted
from offline.benchmark.data import Floats, Ints, Matrix, liked_matrix
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Method


@dataclass(frozen=True)
class EaseConfig:
    ridge: float = 500.0
    every: int = 10  # blocks between refits, prequential


class Ease:
    """The fitted weights."""

    def __init__(self, weights: Matrix, counts: Floats) -> None:
        self.weights, self._counts = weights, counts

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        scores = liked_matrix(histories, len(self._counts)) @ self.weights
        return popular_to_strangers(scores, histories, self._counts)


def fit_ease(logs: Sequence[Ints], n_items: int, config: EaseConfig) -> Ease:
    """Weights [A, A], zero on the diagonal."""
    liked = liked_matrix(logs, n_items)
    gram = (liked.T @ liked).astype(np.float64)
    counts = gram.diagonal().copy()
    inverse = np.linalg.inv(gram + config.ridge * np.eye(n_items))
    weights = -inverse / inverse.diagonal()
    np.fill_diagonal(weights, 0.0)
    return Ease(weights.astype(np.float32), counts)


CONFIG = EaseConfig()
METHODS: Mapping[str, Method] = {
    "ease": Method(
        "EASE",
        "logs",
        lambda context: lambda logs: fit_ease(logs, context.n_items, CONFIG),
        lambda context: Refitted(lambda logs: fit_ease(logs, context.n_items, CONFIG), context.n_items, CONFIG.every),
        asdict(CONFIG),
    )
}
