"""Estimates as ratios of sums: numbers against plain arithmetic, and what must hold for any log."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.policy.off_policy import Terms, cautious, effective_sample_size, estimate, snips, summed

rows = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 50)), min_size=2, max_size=30)


def test_snips_by_hand() -> None:
    rewards, ratios = np.array([1.0, 0.0, 2.0]), np.array([1.0, 2.0, 1.0])
    value = (1 * 1 + 2 * 0 + 1 * 2) / 4
    error = math.sqrt(3 / 2 * (1 * (1 - value) ** 2 + 4 * (0 - value) ** 2 + 1 * (2 - value) ** 2)) / 4
    assert estimate(snips(rewards, ratios)) == pytest.approx((value, value - 1.96 * error, value + 1.96 * error))


def test_a_mean_has_the_textbook_interval() -> None:
    rewards = np.random.default_rng(0).random(40)
    half = 1.96 * rewards.std(ddof=1) / math.sqrt(40)
    expected = (rewards.mean(), rewards.mean() - half, rewards.mean() + half)
    assert estimate(Terms(rewards, np.ones(40))) == pytest.approx(expected)


def test_rows_of_a_cluster_count_as_one() -> None:
    rewards = np.random.default_rng(0).random(20)
    thrice = estimate(Terms(np.tile(rewards, 3), np.ones(60)), np.tile(np.arange(20), 3))
    assert thrice == pytest.approx(estimate(Terms(rewards, np.ones(20))))


def test_what_the_rows_cannot_tell_is_infinite() -> None:
    assert estimate(snips(np.zeros(0), np.zeros(0))) == (0.0, -math.inf, math.inf)
    assert estimate(snips(np.ones(3), np.zeros(3))) == (0.0, -math.inf, math.inf)
    assert estimate(snips(np.ones(3), np.ones(3)), np.zeros(3, np.int64)) == (1.0, -math.inf, math.inf)


@given(rows, st.floats(0.1, 10))
def test_snips_keeps_to_the_rewards_and_to_no_scale(drawn: list[tuple[float, float]], scale: float) -> None:
    rewards, ratios = (np.array(column) for column in zip(*drawn, strict=True))
    value = estimate(snips(rewards, ratios))
    assert rewards.min() - 1e-9 <= value.value <= rewards.max() + 1e-9
    assert value.low <= value.value <= value.high
    assert estimate(snips(rewards, ratios * scale)) == pytest.approx(value, rel=1e-6, abs=1e-9)


@given(rows, st.lists(st.integers(-3, 3), min_size=30, max_size=30))
def test_clusters_keep_the_sums(drawn: list[tuple[float, float]], labels: list[int]) -> None:
    terms = Terms(*(np.array(column) for column in zip(*drawn, strict=True)))
    clusters = np.array(labels[: len(drawn)], np.int64)
    by_cluster = summed(terms, clusters)
    assert len(by_cluster.numerators) == len(set(clusters.tolist()))
    for part, whole in zip(by_cluster, terms, strict=True):
        assert part.sum() == pytest.approx(whole.sum(), abs=1e-9)
    alone = np.arange(len(drawn))[::-1].astype(np.int64)
    assert estimate(terms, alone) == pytest.approx(estimate(terms), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_effective_sample_size_is_between_one_and_all(drawn: list[float]) -> None:
    ratios = np.array(drawn)
    assert 1 - 1e-9 <= effective_sample_size(ratios) <= len(ratios) + 1e-9
    assert effective_sample_size(np.full(len(ratios), 3.0)) == pytest.approx(len(ratios))
    assert effective_sample_size(np.zeros(len(ratios))) == 0.0


@pytest.mark.parametrize("n", [5, 20, 100, 1_000])
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.95])
def test_the_cautious_interval_has_the_truth_in_it_as_often_as_it_says(n: int, rate: float) -> None:
    """500 logs of a policy that shows one of two items evenly; the target shows the second one nine times in ten."""
    rng = np.random.default_rng(n)
    truth = 0.1 * rate / 2 + 0.9 * rate
    hits = 0
    for _ in range(500):
        second = rng.random(2 * n) < 0.5  # an effective sample size of about n
        rewards = (rng.random(2 * n) < np.where(second, rate, rate / 2)).astype(float)
        found = cautious(rewards, np.where(second, 1.8, 0.2), np.arange(2 * n), 1.0)
        hits += found.low <= truth <= found.high
        assert found.low <= found.value <= found.high
    assert hits >= 465


def test_the_cautious_interval_knows_that_what_was_never_shown_may_earn_anything() -> None:
    rewards, rows = np.array([1.0, 0.0] * 500), np.arange(1_000)
    seen = cautious(rewards, np.ones(1_000), rows, 1.0)
    half = cautious(rewards, np.full(1_000, 0.5), rows, 1.0)
    assert half.value == seen.value == 0.5
    assert (half.low, half.high) == pytest.approx((seen.low / 2, 0.5 + seen.high / 2))
    nothing = cautious(rewards, np.zeros(1_000), rows, 1.0)
    assert (nothing.low, nothing.high) == (-math.inf, math.inf)


def test_equal_rewards_of_a_few_rows_are_no_certainty() -> None:
    found = cautious(np.ones(4), np.ones(4), np.arange(4), 1.0)
    assert found.value == 1.0 and found.low < 0.6 and found.high == 1.0
