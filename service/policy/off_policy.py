"""Off-policy estimates as ratios of two sums, with intervals that know which rows belong together.

Every estimator gives each logged row a numerator and a denominator; its value is sum / sum. So one delta method serves
all: with psi_i = numerator_i - value denominator_i, summed within clusters (the slots of one slate, the slates of one
user), the variance is C / (C - 1) sum_c psi_c^2 / (sum of denominators)^2 (Liang and Zeger 1986; Owen, "Monte Carlo
theory, methods and examples", section 9.2). Rows of different clusters must be independent; rows of one need not be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.sampling import Probs

_Z95 = 1.96
LEAST_SAMPLE = 10.0  # effective sample size below which an estimate tells nothing


class Terms(NamedTuple):
    """An estimator's n rows; its value is the ratio of the sums."""

    numerators: Probs  # [n]
    denominators: Probs  # [n]


class Estimate(NamedTuple):
    """A value, in units of reward per row, and its 95% interval; infinite where the rows cannot tell."""

    value: float
    low: float
    high: float


def snips(rewards: Probs, ratios: Probs) -> Terms:
    """Self-normalised importance sampling (Swaminathan and Joachims 2015): sum w r / sum w.

    `rewards` and `ratios` w = pi / mu, both [n]. Slightly biased at small n, never outside the rewards' range, and
    blind to what scales all ratios alike.
    """
    return Terms(ratios * rewards, ratios)


def estimate(terms: Terms, clusters: npt.NDArray[np.int64] | None = None) -> Estimate:
    """Value and 95% cluster-robust normal interval; `clusters` [n] says which rows belong together (None: none do).

    The value is 0 with an infinite interval where the denominators sum to zero, and the interval is infinite with fewer
    than two clusters.
    """
    by_cluster = summed(terms, clusters)
    total = float(by_cluster.denominators.sum())
    if total <= 0:
        return Estimate(0.0, -math.inf, math.inf)
    value = float(by_cluster.numerators.sum()) / total
    n = len(by_cluster.numerators)
    if n < 2:
        return Estimate(value, -math.inf, math.inf)
    psi = by_cluster.numerators - value * by_cluster.denominators
    half = _Z95 * math.sqrt(n / (n - 1) * float((psi**2).sum())) / total
    return Estimate(value, value - half, value + half)


def cautious(
    rewards: Probs, ratios: Probs, clusters: npt.NDArray[np.int64], most: float, least: float = 0.0
) -> Estimate:
    """SNIPS of `rewards` and `ratios` [n], with an interval that also holds where few rows have the weight.

    The normal interval of a handful of equal rewards has no width. So it is wider, on either side, by three times what
    lies between the estimate and the least or largest reward, over the effective sample size: what n draws never had
    may still be as frequent as 3 / n (the rule of three; Hanley and Lippman-Hand 1983). Where the mean ratio is below 1
    the log does not have all that the policy would show: what it lacks may earn either end of the span. `least` and
    `most`: rewards that are possible, whatever was logged.
    """
    plain, ess = estimate(snips(rewards, ratios), clusters), effective_sample_size(ratios)
    if not math.isfinite(plain.low):
        return plain
    least, most = min(least, float(rewards.min())), max(most, float(rewards.max()))
    low = max(least, plain.low - unseen_part(plain.value - least, ess))
    high = min(most, plain.high + unseen_part(most - plain.value, ess))
    unseen = 1 - min(1.0, float(ratios.mean()))
    return Estimate(plain.value, low + unseen * (least - low), high + unseen * (most - high))


def unseen_part(span: float, ess: float) -> float:
    """Return the width to add to either side of an interval for what so few draws may have missed: see `cautious`."""
    return 3 * span / ess if ess > 0 else math.inf


def summed(terms: Terms, clusters: npt.NDArray[np.int64] | None) -> Terms:
    """One row for each cluster: the sums of its rows, [C]."""
    assert terms.numerators.ndim == 1 and terms.numerators.shape == terms.denominators.shape
    if clusters is None:
        return terms
    assert clusters.shape == terms.numerators.shape
    _, index = np.unique(clusters, return_inverse=True)
    numerators, denominators = (np.bincount(index, part).astype(np.float64) for part in terms)
    return Terms(numerators, denominators)


def effective_sample_size(ratios: Probs) -> float:
    """(sum w)^2 / sum w^2 of `ratios` [n] (Kish 1965): how many equally weighted rows would tell as much; 0 if none."""
    squares = float((ratios**2).sum())
    return float(ratios.sum()) ** 2 / squares if squares > 0 else 0.0
