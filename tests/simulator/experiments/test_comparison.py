"""Paired comparisons against scipy, against simulation and against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from simulator.experiments.analysis.comparison import (
    ONE_SIDED,
    WINDOW,
    average,
    median_interval,
    paired_difference,
    paired_ratio,
    sessions_to_reach,
    window_differences,
    worse,
    worse_by_holm,
)
from simulator.experiments.runs.record import BIN
from simulator.statistics import Interval, mean_interval


def pairs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two methods that share most of their noise."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0.0, 1.0, n)
    return 12.0 + shared + rng.normal(0.0, 0.2, n), 10.0 + 0.8 * shared + rng.normal(0.0, 0.2, n)


@pytest.mark.parametrize("n", [2, 10, 50])
def test_paired_difference(n: int) -> None:
    a, b = pairs(n)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    interval = paired_difference(a, b)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-5)
    # The pairing is what makes it narrow.
    assert n < 10 or interval.high - interval.low < np.diff(stats.ttest_ind(a, b).confidence_interval(0.95))[0] / 2


def test_paired_ratio_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(1000):
        interval = paired_ratio(*pairs(10, seed))
        held += interval.low <= 1.2 <= interval.high
    assert 0.93 <= held / 1000 <= 0.97


def test_paired_ratio_of_a_constant_factor_is_certain() -> None:
    _, b = pairs(10)
    interval = paired_ratio(1.236 * b, b)
    assert (interval.low, interval.mean, interval.high) == pytest.approx((1.236,) * 3)
    assert math.isnan(paired_ratio(b, np.zeros(10)).mean) and math.isnan(paired_ratio(np.zeros(0), np.zeros(0)).mean)
    assert math.isnan(paired_ratio(b[:1], b[:1]).low)


def test_average_is_welch_satterthwaite() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(5.0, 3.0, 9), rng.normal(-4.0, 1.0, 14)
    # The mean of a and -b is half of Welch's difference.
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    interval = average([mean_interval(a), mean_interval(-b)])
    assert (interval.low, interval.high) == pytest.approx((expected.low / 2, expected.high / 2), rel=1e-4)
    assert interval.n == 9


def test_average_of_what_is_unknown_or_certain() -> None:
    assert math.isnan(average([]).mean)
    lone = average([mean_interval([3.0]), mean_interval([1.0, 1.0])])
    assert lone.mean == 2.0 and math.isnan(lone.low)
    certain = average([Interval(1.0, 1.0, 1.0, 5), Interval(3.0, 3.0, 3.0, 5)])
    assert (certain.low, certain.high) == (2.0, 2.0)


@pytest.mark.parametrize("n", [5, 6, 10, 20])
def test_median_interval_is_the_sign_test(n: int) -> None:
    values = np.random.default_rng(n).exponential(1.0, n)
    interval = median_interval(np.append(values[:-1], math.inf))  # one seed never got there
    assert interval.mean == pytest.approx(np.median(np.append(values[:-1], 1e9)))
    if n == 5:  # 1/32 at either end is more than 2.5%
        assert math.isnan(interval.low)
        return
    ranked = np.sort(np.append(values[:-1], math.inf))
    outside = int(np.searchsorted(ranked, interval.low))
    assert stats.binom.cdf(outside, n, 0.5) <= ONE_SIDED < stats.binom.cdf(outside + 1, n, 0.5)
    assert interval.high == ranked[n - 1 - outside]


@pytest.mark.parametrize("seed", range(5))
def test_a_window_s_p_is_that_of_a_one_sided_t_test(seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(0.0, 1.0, (2, 8, WINDOW // BIN))
    (window,) = window_differences(a, b)
    expected = stats.ttest_1samp(a.mean(1) - b.mean(1), 0.0, alternative="less").pvalue
    assert window.p_worse == pytest.approx(expected)


def test_windows_are_paired_t_tests_of_consecutive_sessions() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(9.9, 1.0, (10, 23)), rng.normal(10.0, 1.0, (10, 23))
    windows = window_differences(a, b)
    assert [(w.first, w.last) for w in windows] == [(1, 500), (501, 1000), (1001, 1500), (1501, 2000)]
    for n, window in enumerate(windows):
        left, right = a[:, 5 * n : 5 * n + 5].mean(axis=1), b[:, 5 * n : 5 * n + 5].mean(axis=1)
        assert window.p_worse == pytest.approx(stats.ttest_rel(left, right, alternative="less").pvalue, rel=1e-3)
        assert window.difference == paired_difference(left, right)


def test_worse_alone_and_by_holm() -> None:
    a = 10.0 + np.random.default_rng(3).normal(0.0, 0.3, (10, 100))
    b = np.full((10, 100), 10.0)
    b[:, 5:10] += 2.0  # far worse in window 1, a little in window 2
    b[:, 10:15] += 0.11
    windows = window_differences(a, b)
    p = np.array([w.p_worse for w in windows])
    np.testing.assert_array_equal(worse(windows), p < ONE_SIDED)
    ranked, expected = np.argsort(p), np.zeros(20, bool)
    for place, index in enumerate(ranked):  # Holm, as in the textbook
        if p[index] > ONE_SIDED / (20 - place):
            break
        expected[index] = True
    np.testing.assert_array_equal(worse_by_holm(windows), expected)
    assert list(np.flatnonzero(worse(windows))) == [1, 2] and list(np.flatnonzero(worse_by_holm(windows))) == [1]


def test_alone_gives_the_false_alarms_that_holm_prevents() -> None:
    alone = corrected = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        windows = window_differences(rng.normal(0, 1, (10, 100)), rng.normal(0, 1, (10, 100)))
        alone += int(worse(windows).any())
        corrected += int(worse_by_holm(windows).any())
    assert 0.25 < alone / 100 < 0.55  # 1 - 0.975^20 = 0.40
    assert corrected / 100 < 0.08


def test_windows_all_alike_and_of_one_seed() -> None:
    same = np.full((3, 10), 5.0)
    assert [w.p_worse for w in window_differences(same, same)] == [1.0, 1.0]
    assert [w.p_worse for w in window_differences(same - 1.0, same)] == [0.0, 0.0]
    lone = window_differences(same[:1] - 1.0, same[:1])
    assert not worse(lone).any() and not worse_by_holm(lone).any()


def test_sessions_to_reach() -> None:
    curve = np.array([0.0] * 5 + [10.0] * 10)
    assert sessions_to_reach(curve, 0.0) == 500
    assert sessions_to_reach(curve, 4.0) == 700  # 2 of 5 points are 10
    assert sessions_to_reach(curve, 10.0) == 1000
    assert sessions_to_reach(curve, 10.1) == math.inf == sessions_to_reach(curve[:4], 0.0)
