"""Intervals and percentiles against scipy and against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from simulator.statistics import mean_interval, percentiles, t_quantile, welch_difference


@pytest.mark.parametrize("freedom", [1, 1.01, 1.5, 2, 3.7, 10, 29.5, 200, 1e4, 1e8])
def test_t_quantile(freedom: float) -> None:
    for level in (0.5, 0.95, 0.99):
        assert t_quantile(freedom, level) == pytest.approx(stats.t.ppf(0.5 + level / 2, freedom), rel=1e-4)


@pytest.mark.parametrize("n", [2, 3, 40, 1_000])
def test_mean_interval(n: int) -> None:
    values = np.random.default_rng(n).exponential(3.0, n)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-5)
    assert interval.mean == pytest.approx(values.mean()) and interval.n == n


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 50), (30, 7), (400, 100)])
def test_welch_difference(n_a: int, n_b: int) -> None:
    rng = np.random.default_rng(n_a)
    a, b = rng.normal(5.0, 4.0, n_a), rng.normal(4.0, 1.0, n_b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    interval = welch_difference(a, b)
    assert interval.mean == pytest.approx(a.mean() - b.mean())
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-4)
    assert interval.n == min(n_a, n_b)


def test_too_few_values_have_no_interval() -> None:
    assert math.isnan(mean_interval([]).mean) and mean_interval([2.0]).mean == 2.0
    assert math.isnan(mean_interval([2.0]).low) and math.isnan(welch_difference([1.0], [1.0, 2.0]).high)
    assert math.isnan(welch_difference([], [1.0, 2.0]).mean)


def test_values_all_alike_differ_by_a_constant() -> None:
    assert welch_difference([3.0, 3.0], [1.0, 1.0]) == welch_difference([3.0] * 2, [1.0] * 2)
    assert (welch_difference([3.0, 3.0], [1.0, 1.0]).low, mean_interval([3.0, 3.0]).high) == (2.0, 3.0)


def test_percentiles_are_nearest_ranks() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    assert percentiles(values) == {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "max": 1000}
    assert percentiles([7.0]) == dict.fromkeys(("p50", "p90", "p95", "p99", "max"), 7.0)
    assert all(math.isnan(value) for value in percentiles([]).values())
