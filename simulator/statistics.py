"""Means, differences and percentiles with what is needed to judge them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

LEVEL = 0.95
PERCENTILES = (50, 90, 95, 99)
Values = Sequence[float] | npt.NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval; both ends are NaN where there are too few values to tell."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Values) -> Interval:
    """The mean of independent values with Student's 95% interval."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    half = t_quantile(n - 1.0) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Interval(mean, mean - half, mean + half, n)


def welch_difference(a: Values, b: Values) -> Interval:
    """mean(a) - mean(b) with Welch's 95% interval (variances may differ); `n` is the smaller sample's size."""
    n = min(len(a), len(b))
    if n < 2:
        mean = float(np.mean(a) - np.mean(b)) if n else math.nan
        return Interval(mean, math.nan, math.nan, n)
    mean = float(np.mean(a) - np.mean(b))
    of_a, of_b = float(np.var(a, ddof=1)) / len(a), float(np.var(b, ddof=1)) / len(b)
    variance = of_a + of_b
    if variance == 0:
        return Interval(mean, mean, mean, n)
    freedom = variance**2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    half = t_quantile(freedom) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, n)


def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """The t with P(|T| <= t) = level for Student's T with `freedom` degrees of freedom."""
    return float(stdtrit(freedom, 0.5 + level / 2))


def percentiles(values: Values) -> dict[str, float]:
    """p50, p90, p95, p99 and max, each a value that occurred (nearest rank); all NaN without values."""
    if not len(values):
        return {f"p{q}": math.nan for q in PERCENTILES} | {"max": math.nan}
    ranked = np.percentile(values, [*PERCENTILES, 100], method="inverted_cdf")
    return dict(zip([*(f"p{q}" for q in PERCENTILES), "max"], map(float, ranked), strict=True))
