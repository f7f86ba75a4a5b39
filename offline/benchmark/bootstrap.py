"""Intervals by resampling users: what one user did is not independent, so users are drawn whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offline.benchmark.data import Floats, Ints

DRAWS = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean with the ends of its 95% interval; ends are NaN with fewer than two users."""

    mean: float
    low: float
    high: float


def clustered_mean(values: Floats, clusters: Ints, seed: int, draws: int = DRAWS) -> Interval:
    """Mean of values [n] (NaNs left out) with the percentile interval of a bootstrap over clusters [n].

    Each draw takes as many clusters as there are, with replacement, and all values of each.
    """
    defined = ~np.isnan(values)
    _, cluster = np.unique(clusters[defined], return_inverse=True)
    if not len(cluster):
        return Interval(float("nan"), float("nan"), float("nan"))
    counts = np.bincount(cluster).astype(np.float64)
    sums = np.bincount(cluster, weights=values[defined])
    mean, n = float(sums.sum() / counts.sum()), len(counts)
    if n < 2:
        return Interval(mean, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(mean, float(low), float(high))
