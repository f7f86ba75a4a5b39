"""The alignment score: intervals against scipy and by counting, and what follows from it, case by case."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from offline.alignment import (
    CONSISTENT,
    UNEXPLAINED,
    Alignment,
    Trust,
    correlation,
    with_closeness,
    with_names,
    with_texts,
)

NOT = Trust.unmeasured()


def surely(value: float, n: int = 100_000) -> Trust:
    return Trust.of_correlation(value, n)


@pytest.mark.parametrize(("seed", "n", "slope"), [(0, 4, 0.5), (1, 30, 1.0), (2, 500, -0.2), (3, 40, 0.0)])
def test_the_interval_is_fishers(seed: int, n: int, slope: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = slope * x + rng.normal(size=n)
    oracle = stats.pearsonr(x, y)
    interval = oracle.confidence_interval(0.95)
    got = with_names(x.tolist(), y.tolist())
    assert got.n == n
    assert got.value == pytest.approx(oracle.statistic, abs=1e-12)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), abs=1e-4)  # 1.96 against 1.95996


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), ([1.0] * 9, list(range(9))), (list(range(9)), [0.0] * 9)]
)
def test_what_has_no_correlation_is_not_measured(x: list[float], y: list[float]) -> None:
    assert math.isnan(correlation(x, y))
    trust = with_names(x, y)
    assert trust.n == 0 and str(trust) == "not measured"


def test_a_perfect_correlation_has_an_interval() -> None:
    trust = with_names(list(range(50)), list(range(50)))
    assert 0.99 < trust.low < trust.value <= 1.0 and trust.high <= 1.0


@given(r=st.floats(-1, 1), n=st.integers(4, 10_000))
def test_an_interval_holds_its_value(r: float, n: int) -> None:
    trust = Trust.of_correlation(r, n)
    assert -1 <= trust.low <= r + 1e-5 and r - 1e-5 <= trust.high <= 1
    assert str(trust) == f"{r:.2f} ({trust.low:.2f} to {trust.high:.2f})"


def states(rng: np.random.Generator, n: int, slope: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Judgements and closeness of n states of 3 to 12 items; a state's level, and how much it follows, are its own."""
    judged, close = [], []
    for size in rng.integers(3, 13, size=n):
        c = rng.normal(size=size)
        judged.append((slope + 0.8 * rng.normal()) * c + rng.normal(size=size) + 5 * rng.normal())
        close.append(c + 5 * rng.normal())
    return judged, close


def test_closeness_against_a_plain_loop() -> None:
    judged, close = states(np.random.default_rng(0), 20, 0.5)
    x = np.concatenate([j - j.mean() for j in judged])
    y = np.concatenate([c - c.mean() for c in close])
    got = with_closeness(judged, close, seed=0)
    assert got.value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert got.n == 20 and got.low < got.value < got.high
    assert got == with_closeness(judged, close, seed=0)


def test_the_clustered_interval_covers_the_truth() -> None:
    """Nineteen times in twenty, where one that takes items as independent fails more often."""
    truth = with_closeness(*states(np.random.default_rng(1), 30_000, 0.3), seed=0).value
    clustered = naive = 0
    for seed in range(200):
        judged, close = states(np.random.default_rng([2, seed]), 50, 0.3)
        got = with_closeness(judged, close, seed)
        clustered += got.low <= truth <= got.high
        plain = Trust.of_correlation(got.value, sum(len(j) for j in judged))
        naive += plain.low <= truth <= plain.high
    assert 0.88 * 200 <= clustered <= 0.99 * 200
    assert naive < clustered - 5


def test_few_states_and_lone_items_are_not_measured() -> None:
    one = [np.array([1.0]), np.array([2.0])]
    assert with_closeness([], [], 0).n == 0
    assert with_closeness(one * 5, one * 5, 0).n == 0
    assert with_closeness(*states(np.random.default_rng(0), 3, 1.0), seed=0).n == 0
    constant = [np.ones(3)] * 6
    flat = with_closeness(constant, constant, 0)
    assert (flat.value, flat.low, flat.high) == (0.0, 0.0, 0.0)


def test_texts_predict_a_prior_that_follows_them_and_no_other() -> None:
    rng = np.random.default_rng(4)
    features = torch.from_numpy(np.concatenate([np.ones((400, 1)), rng.normal(size=(400, 6))], 1))
    signal = features[:, 1] - 0.5 * features[:, 2] + 3.0
    noise = torch.from_numpy(rng.normal(size=400))
    # Of the deviation of z, half is the signal's: even the best prediction correlates by 0.5 ** 0.5 at most.
    z = signal + noise * float(signal.std() / noise.std())
    follows = with_texts(z, features, seed=0)
    assert follows.value == pytest.approx(0.5**0.5, abs=0.06) and follows.n == 400
    assert follows == with_texts(z, features, seed=0)
    unrelated = [with_texts(torch.from_numpy(rng.permutation(z.numpy())), features, seed).value for seed in range(40)]
    assert abs(np.mean(unrelated)) < 0.04  # held-out means are not known to the prediction, else it would be below 0
    assert max(unrelated) < CONSISTENT + 0.05
    assert with_texts(z[:9], features[:9], seed=0).n == 0


SHARES = {
    "nothing was measured": (NOT, NOT, 1.0, 0),
    "a prior that texts tell and names do not": (surely(0.0), surely(0.5), 1.0, 0),
    "as far as is known to be sound": (surely(math.sqrt(1 - UNEXPLAINED)), surely(0.39), 1.0, 0),
    "a bit more of the names": (surely(math.sqrt(1 - 0.6 * UNEXPLAINED)), NOT, 0.6, 0),
    "mostly names": (surely(math.sqrt(1 - 0.3 * UNEXPLAINED)), NOT, 0.3, 1),
    "mostly names, the other way": (surely(-math.sqrt(1 - 0.3 * UNEXPLAINED)), NOT, 0.3, 1),
    "nothing but names": (surely(1.0), surely(0.5), 0.0, 1),
    "texts tell a little": (NOT, Trust(0.1, 0.05, 0.15, 1000), 0.5, 1),
    "texts tell nothing": (NOT, Trust(-0.1, -0.15, -0.05, 1000), 0.0, 1),
    "few items, so nothing is held against it": (NOT, Trust(0.0, -0.3, 0.3, 40), 1.0, 0),
    "both": (surely(math.sqrt(1 - 0.4 * UNEXPLAINED)), Trust(0.1, 0.05, 0.15, 1000), 0.2, 2),
}


@pytest.mark.parametrize("case", SHARES)
def test_how_far_a_prior_is_believed(case: str) -> None:
    names, by_text, share, n_warnings = SHARES[case]
    alignment = Alignment(names, by_text, NOT)
    assert alignment.prior_share == pytest.approx(share, abs=1e-4)
    assert len(alignment.warnings) == n_warnings


@pytest.mark.parametrize(
    ("personal", "used", "n_warnings"),
    [
        (NOT, False, 0),
        (Trust(0.3, 0.2, 0.4, 100), True, 0),
        (Trust(0.1, -0.05, 0.25, 100), False, 1),
        (Trust(-0.3, -0.4, -0.2, 100), False, 1),
    ],
)
def test_personal_judgements_are_used_where_they_surely_follow_closeness(
    personal: Trust, used: bool, n_warnings: int
) -> None:
    alignment = Alignment(NOT, NOT, personal)
    assert alignment.uses_personal is used
    assert len(alignment.warnings) == n_warnings
    for warning in alignment.warnings:
        assert str(personal) in warning and "closeness of texts is used instead" in warning


def test_the_report_leaves_out_what_was_not_measured() -> None:
    assert Alignment(NOT, NOT, NOT).report() == {"alignment_prior_share": 1.0, "alignment_uses_personal": 0.0}
    report = Alignment(surely(0.2), NOT, Trust(0.3, 0.2, 0.4, 9)).report()
    assert report["alignment_personal"] == 0.3
    assert (report["alignment_personal_low"], report["alignment_personal_high"]) == (0.2, 0.4)
    assert report["alignment_uses_personal"] == 1.0 and report["alignment_prior_share"] == 1.0
    assert report["alignment_names"] == 0.2 and not any(name.startswith("alignment_texts") for name in report)
    assert all(math.isfinite(value) for value in report.values())
