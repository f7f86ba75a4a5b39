"""iALS (Hu, Koren, Volinsky, ICDM 2008), from the package `implicit`; a held-out user is folded in by their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from offline.benchmark.baselines.popularity import popular_to_strangers
from offline.benchmark.baselines.refit import Refitted
from offline.benchmark.data import Floats, Ints
from offline.benchmark.metrics import Scores
from offline.benchmark.ranker import Method


@dataclass(frozen=True)
class IalsConfig:
    factors: int = 64
    regularization: float = 50.0
    alpha: float = 10.0
    iterations: int = 15
    every: int = 10  # blocks between refits, prequential


class Ials:
    """A fitted model."""

    def __init__(self, model: Any, counts: Floats) -> None:
        self._model, self._counts = model, counts

    def rank(self, histories: Sequence[Sequence[int]]) -> Scores:
        users = self._model.recalculate_user(np.arange(len(histories)), _sparse(histories, len(self._counts)))
        return popular_to_strangers(users @ self._model.item_factors.T, histories, self._counts)


def fit_ials(logs: Sequence[Ints], n_items: int, config: IalsConfig, seed: int) -> Ials:
    """Fit to all users' likes."""
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    liked = _sparse(logs, n_items)
    with threadpool_limits(1, "blas"):  # the package has threads of its own, and warns of others'
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularization,
            alpha=config.alpha,
            iterations=config.iterations,
            num_threads=1,
            random_state=seed,
        )
        model.fit(liked, show_progress=False)
    return Ials(model, np.asarray(liked.sum(0), np.float64)[0])


def _sparse(histories: Sequence[Sequence[int] | Ints], n_items: int) -> Any:
    from scipy.sparse import csr_matrix

    ends = np.cumsum([0, *(len(history) for history in histories)])
    items = np.concatenate([np.zeros(0, np.int64), *(np.asarray(h, np.int64) for h in histories)])
    return csr_matrix((np.ones(len(items), np.float32), items, ends), shape=(len(histories), n_items))


CONFIG = IalsConfig()
METHODS: Mapping[str, Method] = {
    "ials": Method(
        "iALS",
        "logs",
        lambda context: lambda logs: fit_ials(logs, context.n_items, CONFIG, context.seed),
        lambda context: Refitted(
            lambda logs: fit_ials(logs, context.n_items, CONFIG, context.seed), context.n_items, CONFIG.every
        ),
        asdict(CONFIG),
    )
}
