"""Comparisons of two methods that met the same users: paired by seed, over all sessions or window by window.

Arrays only. `a` and `b` hold one value a seed, in the same order; curves are [S seeds, P points of BIN sessions].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from simulator.experiments.runs.record import BIN
from simulator.statistics import LEVEL, Interval, mean_interval, t_quantile

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
WINDOW = 500  # sessions
ONE_SIDED = (1.0 - LEVEL) / 2  # chance that the upper end of a 95% interval is below the truth


def paired_difference(a: Floats, b: Floats) -> Interval:
    """mean(a - b) with Student's 95% interval."""
    assert a.shape == b.shape
    return mean_interval(a - b)


def paired_ratio(a: Floats, b: Floats) -> Interval:
    """mean(a) / mean(b) with a 95% interval by the delta method.

    To first order the ratio r varies as mean(a - r b) / mean(b), and a seed's residual a - r b keeps the pairing.
    """
    assert a.shape == b.shape
    if not len(a) or np.mean(b) == 0:
        return Interval(math.nan, math.nan, math.nan, len(a))
    ratio = float(np.mean(a) / np.mean(b))
    residual = mean_interval(a - ratio * b)
    half = (residual.high - residual.mean) / abs(float(np.mean(b)))
    return Interval(ratio, ratio - half, ratio + half, len(a))


def average(intervals: Sequence[Interval]) -> Interval:
    """The unweighted mean of independent estimates; degrees of freedom by Welch and Satterthwaite, `n` the smallest."""
    mean = float(np.mean([interval.mean for interval in intervals])) if intervals else math.nan
    n = min((interval.n for interval in intervals), default=0)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    errors = [(i.high - i.low) / 2 / t_quantile(i.n - 1.0) for i in intervals]
    variance = sum(e**2 for e in errors)
    if not variance > 0:
        return Interval(mean, mean + 0 * variance, mean + 0 * variance, n)  # NaN stays NaN
    freedom = variance**2 / sum(e**4 / (i.n - 1) for e, i in zip(errors, intervals, strict=True))
    half = t_quantile(freedom) * math.sqrt(variance) / len(intervals)
    return Interval(mean, mean - half, mean + half, n)


def median_interval(values: Floats) -> Interval:
    """The median with the sign test's interval (at least 95%): order statistics, so that values may be infinite."""
    n = len(values)
    ranked = np.sort(values)
    median = float(ranked[[(n - 1) // 2, n // 2]].mean()) if n else math.nan
    below = np.cumsum([math.comb(n, k) / 2**n for k in range(n)])  # P(at most k of n values are below the median)
    outside = int(np.searchsorted(below, ONE_SIDED, side="right"))  # values cut off at either end
    if outside == 0:
        return Interval(median, math.nan, math.nan, n)
    return Interval(median, float(ranked[outside - 1]), float(ranked[n - outside]), n)


class Window(NamedTuple):
    """a - b over the sessions first .. last (counted from 1)."""

    first: int
    last: int
    difference: Interval
    p_worse: float  # one-sided, of a difference as low as this where there is none


def window_differences(a: Floats, b: Floats, size: int = WINDOW) -> list[Window]:
    """The paired difference in every whole window of `size` sessions; curves [S, P]."""
    assert a.ndim == b.ndim == 2 and len(a) == len(b)
    points = size // BIN
    windows = []
    for w in range(min(a.shape[1], b.shape[1]) // points):
        place = slice(w * points, (w + 1) * points)
        differences = a[:, place].mean(axis=1) - b[:, place].mean(axis=1)
        windows.append(Window(w * size + 1, (w + 1) * size, mean_interval(differences), _p_below_zero(differences)))
    return windows


def worse(windows: Sequence[Window]) -> Bools:
    """[W] where the 95% interval, taken alone, lies below 0."""
    return np.array([window.difference.high < 0 for window in windows], bool)


def worse_by_holm(windows: Sequence[Window]) -> Bools:
    """[W] where `worse` survives Holm's correction for the number of windows (Holm 1979)."""
    p = np.array([window.p_worse for window in windows])
    order = np.argsort(p, kind="stable")
    allowed = ONE_SIDED / np.arange(len(p), 0, -1)
    rejected = np.zeros(len(p), bool)
    rejected[order] = np.logical_and.accumulate(p[order] <= allowed)
    return rejected


def _p_below_zero(values: Floats) -> float:
    """P(t statistic as low as this) where the mean is 0; 1 with fewer than two values."""
    n = len(values)
    if n < 2:
        return 1.0
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    if error == 0:
        return 0.0 if mean < 0 else 1.0
    return float(stdtr(n - 1.0, mean / error))


def sessions_to_reach(curve: Floats, level: float, size: int = WINDOW) -> float:
    """Sessions until the running mean over the last `size` sessions is at least `level`; infinite if never. [P]."""
    points = size // BIN
    if len(curve) < points:
        return math.inf
    running = np.convolve(curve, np.full(points, 1.0 / points), mode="valid")
    reached = np.flatnonzero(running >= level)
    return float((reached[0] + points) * BIN) if len(reached) else math.inf
