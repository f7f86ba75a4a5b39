"""Every metric against a number worked out by hand, ties included."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offline.benchmark.bootstrap import clustered_mean
from offline.benchmark.metrics import NextItem, auc, match_popular, paired_auc, precision


def test_auc_counts_pairs_and_halves_ties() -> None:
    # Pairs of 3: above 1, tie with 3, below 4; of 5: above all three.
    assert auc(np.array([3.0, 5.0]), np.array([1.0, 3.0, 4.0])) == pytest.approx((1.5 + 3) / 6)
    assert auc(np.zeros(4), np.zeros(9)) == 0.5
    assert math.isnan(auc(np.zeros(0), np.zeros(3))) and math.isnan(auc(np.zeros(3), np.zeros(0)))


def test_auc_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = rng.integers(0, 5, 30).astype(float), rng.integers(0, 5, 70).astype(float)
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert auc(positives, negatives) == pytest.approx(float(np.mean(pairs)))


def test_paired_auc_compares_each_positive_with_its_own() -> None:
    # 2 beats 1 and ties with 2; 9 loses to 10 and beats 8.
    assert paired_auc(np.array([2.0, 9.0]), np.array([[1.0, 2.0], [10.0, 8.0]])) == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert math.isnan(paired_auc(np.zeros(2), np.zeros((2, 0))))


def test_matched_items_are_the_next_in_popularity() -> None:
    popularity = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    found = match_popular(np.array([3, 6]), np.array([0, 1, 2, 4, 5]), popularity, 2, np.random.default_rng(0))
    assert set(found[0].tolist()) == {2, 4} and set(found[1].tolist()) == {4, 5}
    assert match_popular(np.array([3]), np.array([0, 1]), popularity, 5, np.random.default_rng(0)).shape == (1, 2)


def test_popularity_is_at_chance_against_matched_items() -> None:
    rng = np.random.default_rng(0)
    popularity = rng.integers(0, 12, 400).astype(np.float64)  # many ties
    values = []
    for _ in range(300):
        # Likes in proportion to popularity, the rest are candidates; the extremes have neighbours on one side only.
        liked = rng.choice(400, 20, replace=False, p=popularity / popularity.sum())
        candidates = np.setdiff1d(np.arange(400), liked)
        matched = match_popular(liked, candidates, popularity, 5, rng)
        values.append(paired_auc(popularity[liked], popularity[matched]))
    assert np.mean(values) == pytest.approx(0.5, abs=0.01)


def measured(scores: list[float], target: int, excluded: tuple[int, ...] = ()) -> dict[str, float]:
    candidates = np.ones(len(scores), np.bool_)
    candidates[list(excluded)] = False
    return NextItem(len(scores)).measure(np.array(scores), target, candidates)


def test_the_next_item_at_a_rank() -> None:
    scores = [float(20 - i) for i in range(20)]
    assert measured(scores, 0) == {"ndcg": 1.0, "hit": 1.0, "mrr": 1.0}
    assert measured(scores, 2) == pytest.approx({"ndcg": 1 / math.log2(4), "hit": 1.0, "mrr": 1 / 3})
    assert measured(scores, 9) == pytest.approx({"ndcg": 1 / math.log2(11), "hit": 1.0, "mrr": 0.1})
    assert measured(scores, 10) == pytest.approx({"ndcg": 0.0, "hit": 0.0, "mrr": 1 / 11})
    assert measured(scores, 10, excluded=(0, 5)) == pytest.approx({"ndcg": 1 / math.log2(10), "hit": 1.0, "mrr": 1 / 9})


def test_ties_are_the_mean_over_all_orders() -> None:
    # One above, then the target tied with two others: ranks 2, 3 and 4, each as likely.
    found = measured([5.0, 1.0, 1.0, 1.0, 0.0], 2)
    assert found["ndcg"] == pytest.approx(np.mean([1 / math.log2(rank + 1) for rank in (2, 3, 4)]))
    assert found["mrr"] == pytest.approx(np.mean([1 / 2, 1 / 3, 1 / 4]))
    assert measured([0.0] * 40, 3)["hit"] == pytest.approx(10 / 40)


def test_ndcg_of_several() -> None:
    scores, everything = np.array([9.0, 8.0, 7.0, 6.0, *[0.0] * 20]), np.ones(24, np.bool_)
    gains = 1 / math.log2(2) + 1 / math.log2(4)
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert NextItem(24).ndcg_of_all(scores, np.array([0, 2]), everything) == pytest.approx(gains / ideal)


def test_precision_of_the_first_few() -> None:
    liked = np.array([True, False, True, False])
    assert precision(np.array([4.0, 3.0, 2.0, 1.0]), liked, 3) == pytest.approx(2 / 3)
    assert precision(np.array([1.0, 3.0, 2.0, 4.0]), liked, 3) == pytest.approx(1 / 3)
    assert precision(np.zeros(4), liked, 3) == pytest.approx(0.5)
    assert math.isnan(precision(np.zeros(2), np.array([True, False]), 3))


def test_the_bootstrap_draws_users_whole() -> None:
    """Many rows of few users say no more than these users' means: oracle is the spread of a mean of means."""
    rng = np.random.default_rng(0)
    of_user = rng.normal(0.0, 1.0, 50)
    users = np.repeat(np.arange(50), 40)
    values = of_user[users] + rng.normal(0.0, 0.1, len(users))
    found = clustered_mean(values, users, seed=0)
    assert found.mean == pytest.approx(values.mean())
    expected = 1.96 * of_user.std(ddof=1) / math.sqrt(50)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.1)


def test_the_bootstrap_with_one_row_a_user_is_the_ordinary_one() -> None:
    values = np.random.default_rng(1).exponential(1.0, 400)
    found = clustered_mean(values, np.arange(400), seed=0)
    expected = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.08)
    assert clustered_mean(values, np.arange(400), seed=0) == found


def test_the_bootstrap_leaves_out_what_is_not_defined() -> None:
    values = np.array([1.0, np.nan, 3.0])
    assert clustered_mean(values, np.arange(3), seed=0).mean == 2.0
    one = clustered_mean(values[:2], np.arange(2), seed=0)
    assert one.mean == 1.0 and math.isnan(one.low)
    assert math.isnan(clustered_mean(values[1:2], np.arange(1), seed=0).mean)
