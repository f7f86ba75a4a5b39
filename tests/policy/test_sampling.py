from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import chi2

from service.policy.losses import slate_log_probs
from service.policy.sampling import (
    propensities_where,
    sample_slate,
    sample_slate_where,
    sample_slates,
    slate_propensities,
)

Probs = npt.NDArray[np.float64]


@st.composite
def masses(draw: st.DrawFn) -> Probs:
    """Non-negative masses over 1 to 7 items, often with zeros and over 12 orders of magnitude."""
    mass = st.one_of(st.just(0.0), st.floats(1e-12, 1.0))
    return np.array(draw(st.lists(mass, min_size=1, max_size=7)))


def slate_probability(probs: Probs, slate: tuple[int, ...]) -> float:
    """Plackett-Luce by its definition."""
    probability, left = 1.0, [float(p) for p in probs]
    for item in slate:
        probability *= left[item] / math.fsum(left)
        left[item] = 0.0
    return probability


@given(masses(), st.integers(0, 9), st.integers(0, 2**32))
def test_slates_are_distinct_possible_items_with_valid_propensities(probs: Probs, k: int, seed: int) -> None:
    slate = sample_slate(probs, k, np.random.default_rng(seed))
    assert len(slate.items) == len(slate.propensities) == min(k, int((probs > 0).sum()))
    assert len(set(slate.items.tolist())) == len(slate.items)
    assert (probs[slate.items] > 0).all()
    assert ((slate.propensities > 0) & (slate.propensities <= 1)).all()
    assert slate.items.dtype == np.int64
    assert slate.propensities.dtype == np.float64


@given(masses(), st.integers(1, 7), st.integers(0, 2**32))
def test_propensities_multiply_to_the_slates_probability(probs: Probs, k: int, seed: int) -> None:
    slate = sample_slate(probs, k, np.random.default_rng(seed))
    oracle = slate_probability(probs, tuple(slate.items.tolist())) if len(slate.items) else 1.0
    assert float(np.prod(slate.propensities)) == pytest.approx(oracle, rel=1e-9)


@given(masses(), st.integers(1, 7), st.integers(0, 2**32))
def test_a_slate_looks_the_same_to_the_policy_that_drew_it(probs: Probs, k: int, seed: int) -> None:
    slate = sample_slate(probs, k, np.random.default_rng(seed))
    np.testing.assert_allclose(slate_propensities(probs, slate.items), slate.propensities, rtol=1e-12)


@given(masses(), st.integers(1, 7), st.integers(0, 2**32))
def test_propensities_equal_those_of_the_learner(probs: Probs, k: int, seed: int) -> None:
    slate = sample_slate(probs, k, np.random.default_rng(seed))
    if len(slate.items) == 0:
        return
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probs), -1e9)
    log_probs = slate_log_probs(torch.from_numpy(logits)[None], torch.from_numpy(slate.items)[None])
    np.testing.assert_allclose(log_probs[0].exp().numpy(), slate.propensities, rtol=1e-8)


def test_propensities_of_all_slates_sum_to_one() -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(5))
    products = [np.prod(slate_propensities(probs, np.array(s))) for s in itertools.permutations(range(5), 3)]
    assert math.fsum(products) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("rest", [1e-15, 1e-30, 1e-300])
def test_extreme_concentration_keeps_propensities_exact(rest: float) -> None:
    # Beside an item of mass 1 - 1e-15, "1 - sum of the slots above" has no correct digit left.
    shares = np.array([0.5, 0.3, 0.2])
    probs = np.array([rest * 0.5, 1.0 - rest, rest * 0.3, rest * 0.2])
    slate = sample_slate(probs, 4, np.random.default_rng(1))
    assert slate.items[0] == 1
    below = {0: 0, 2: 1, 3: 2}
    left = list(shares)
    for item, propensity in zip(slate.items[1:], slate.propensities[1:], strict=True):
        share = shares[below[int(item)]]
        assert propensity == pytest.approx(share / math.fsum(left), rel=1e-12)
        left.remove(share)


def test_a_slate_that_the_target_policy_would_never_show_has_propensity_zero() -> None:
    np.testing.assert_array_equal(slate_propensities(np.array([0.0, 1.0, 0.0]), np.array([1, 0, 2])), [1.0, 0.0, 0.0])


def test_masses_need_not_sum_to_one() -> None:
    probs = np.random.default_rng(2).dirichlet(np.ones(6))
    one = sample_slate(probs, 3, np.random.default_rng(3))
    scaled = sample_slate(probs * 1000, 3, np.random.default_rng(3))
    assert one.items.tolist() == scaled.items.tolist()
    np.testing.assert_allclose(one.propensities, scaled.propensities, rtol=1e-12)


def test_the_same_seed_gives_the_same_slate_and_another_seed_another() -> None:
    probs = np.full(50, 0.02)
    slates = [sample_slate(probs, 10, np.random.default_rng(seed)) for seed in (4, 4, 5)]
    assert slates[0].items.tolist() == slates[1].items.tolist()
    assert slates[0].items.tolist() != slates[2].items.tolist()


def test_masses_in_single_precision_are_drawn_alike() -> None:
    probs = np.array([0.125, 0.25, 0.5, 0.125])

    def drawn(of: Probs) -> list[list[int]]:
        return [sample_slate(of, 3, np.random.default_rng(seed)).items.tolist() for seed in range(20)]

    assert drawn(probs.astype(np.float32)) == drawn(probs)
    assert len({tuple(slate) for slate in drawn(probs)}) > 5


def test_nothing_possible_gives_an_empty_slate() -> None:
    for probs, k in ((np.zeros(3), 2), (np.ones(3), 0), (np.empty(0), 1)):
        slate = sample_slate(probs, k, np.random.default_rng(6))
        assert len(slate.items) == len(slate.propensities) == 0


def matrices(*elements: st.SearchStrategy[float]) -> st.SearchStrategy[Probs]:
    """Masses [B, A], up to 6 x 6."""
    return arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.one_of(*elements))


@given(matrices(st.just(0.0), st.floats(1e-300, 1.0), st.floats(0.5, 1.0)), st.data(), st.integers(0, 2**32))
def test_slates_at_once_are_distinct_possible_items_with_exact_propensities(
    probs: Probs, data: st.DataObject, seed: int
) -> None:
    k = data.draw(st.integers(1, probs.shape[1]))
    slates = sample_slates(probs, k, np.random.default_rng(seed))
    assert slates.items.shape == slates.propensities.shape == (len(probs), k)
    assert (slates.items.dtype, slates.propensities.dtype) == (np.dtype(np.int64), np.dtype(np.float64))
    for mass, items, propensities in zip(probs, slates.items, slates.propensities, strict=True):
        n = min(k, int((mass > 0).sum()))
        shown = items[:n]
        assert len(set(shown.tolist())) == n
        assert (mass[shown] > 0).all()
        np.testing.assert_allclose(propensities[:n], slate_propensities(mass, shown), rtol=1e-12)
        # Too few items are possible: the rest of the row is empty.
        assert (items[n:] == -1).all() and (propensities[n:] == 1).all()


@given(matrices(st.just(0.0), st.floats(5e-324, 1e-307), st.floats(0.5, 1.0)), st.data(), st.integers(0, 2**32))
def test_masses_next_to_nothing_do_no_harm(probs: Probs, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, probs.shape[1]))
    slates = sample_slates(probs, k, np.random.default_rng(seed))
    for mass, items, propensities in zip(probs, slates.items, slates.propensities, strict=True):
        shown = items[items >= 0]
        assert len(set(shown.tolist())) == len(shown) >= min(k, int((mass >= 0.5).sum()))
        assert (mass[shown] > 0).all()
        np.testing.assert_allclose(propensities[items >= 0], slate_propensities(mass, shown), rtol=1e-12)
        assert (propensities[items < 0] == 1).all()


def test_nothing_possible_gives_rows_of_empty_slots() -> None:
    slates = sample_slates(np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), 2, np.random.default_rng(7))
    assert slates.items.tolist() == [[-1, -1], [1, -1]]
    assert slates.propensities.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def at_once(probs: Probs, n: int) -> npt.NDArray[np.int64]:
    return sample_slates(np.tile(probs, (n, 1)), 2, np.random.default_rng(8)).items


def one_by_one(probs: Probs, n: int) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(9)
    return np.stack([sample_slate(probs, 2, rng).items for _ in range(n)])


def by_mass_alone(probs: Probs, n: int) -> npt.NDArray[np.int64]:
    """Wrong: each slot from the masses, whatever is above."""
    return np.random.default_rng(10).choice(len(probs), size=(n, 2), p=probs / probs.sum())


@pytest.mark.parametrize(("draw", "right"), [(at_once, True), (one_by_one, True), (by_mass_alone, False)])
def test_slates_come_as_often_as_plackett_luce_says(
    draw: Callable[[Probs, int], npt.NDArray[np.int64]], right: bool
) -> None:
    probs, n = np.array([0.5, 0.0, 1.0, 0.1, 0.4]), 20_000
    items = draw(probs, n)
    slates = list(itertools.permutations(np.flatnonzero(probs).tolist(), 2))
    expected = np.array([n * slate_probability(probs, slate) for slate in slates])
    counts = np.array([(items == slate).all(axis=1).sum() for slate in slates])
    assert expected.min() > 20 and expected.sum() == pytest.approx(n)
    p = chi2.sf(((counts - expected) ** 2 / expected).sum(), len(slates) - 1)
    assert (p > 1e-4) == right


def test_every_row_follows_its_own_masses() -> None:
    n = 20_000
    probs = np.tile([[0.9, 0.1], [0.2, 0.8]], (n, 1))
    first = sample_slates(probs, 1, np.random.default_rng(11)).items[:, 0].reshape(n, 2)
    for share, mass in zip(first.mean(axis=0), (0.1, 0.8), strict=True):
        assert abs(share - mass) < 4 * math.sqrt(mass * (1 - mass) / n)


def test_masses_are_left_as_they_are() -> None:
    probs = np.random.default_rng(12).dirichlet(np.ones(6), size=3)
    before = probs.copy()
    first, again, other = (sample_slates(probs, 4, np.random.default_rng(seed)) for seed in (13, 13, 14))
    np.testing.assert_array_equal(probs, before)
    np.testing.assert_array_equal(first.items, again.items)
    assert (first.items != other.items).any()


@pytest.mark.parametrize("rest", [1e-15, 1e-30, 1e-300])
def test_extreme_concentration_keeps_all_propensities_exact_at_once(rest: float) -> None:
    probs = np.tile([rest * 0.5, 1.0 - rest, rest * 0.3, rest * 0.2], (5, 1))
    slates = sample_slates(probs, 4, np.random.default_rng(15))
    for items, propensities in zip(slates.items, slates.propensities, strict=True):
        assert items[0] == 1
        left = np.array([0.5, 1.0, 0.3, 0.2])
        for item, propensity in zip(items[1:], propensities[1:], strict=True):
            left[items[0]] = 0.0
            assert propensity == pytest.approx(left[item] / math.fsum(left), rel=1e-12)
            left[item] = 0.0


def of_kind(kinds: Sequence[int], most: int) -> Callable[[int], npt.NDArray[np.bool_]]:
    """At most so many of a kind, counted for one slate."""
    counts = [0] * (max(kinds) + 1)

    def ruled_out(item: int) -> npt.NDArray[np.bool_]:
        counts[kinds[item]] += 1
        return np.array([counts[kind] >= most for kind in kinds])

    return ruled_out


def limited_slates(probs: Probs, k: int, kinds: Sequence[int], most: int) -> dict[tuple[int, ...], float]:
    """Every slate that a limit allows, and its probability by the definition: slot by slot."""
    found: dict[tuple[int, ...], float] = {}

    def extend(slate: tuple[int, ...], probability: float) -> None:
        taken = [kinds[item] for item in slate]
        left = [item for item in range(len(probs)) if item not in slate and taken.count(kinds[item]) < most]
        left = [item for item in left if probs[item] > 0]
        if len(slate) == k or not left:
            found[slate] = probability
            return
        total = math.fsum(probs[item] for item in left)
        for item in left:
            extend((*slate, item), probability * float(probs[item]) / total)

    extend((), 1.0)
    return found


def test_slates_under_a_limit_come_as_often_as_their_propensities_say() -> None:
    probs = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    kinds, k, most, n = [0, 0, 1, 1, 0, 1], 4, 2, 30_000
    expected = limited_slates(probs, k, kinds, most)
    assert sum(expected.values()) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(n):
        slate = sample_slate_where(probs, k, rng, of_kind(kinds, most))
        items = tuple(slate.items.tolist())
        counts[items] = counts.get(items, 0) + 1
        assert float(np.prod(slate.propensities)) == pytest.approx(expected[items], rel=1e-9)
    likely = [slate for slate, p in expected.items() if n * p >= 5]
    statistic = sum((counts.get(slate, 0) - n * expected[slate]) ** 2 / (n * expected[slate]) for slate in likely)
    assert statistic < chi2.ppf(0.9999, len(likely) - 1)


@given(masses(), st.integers(0, 7), st.integers(1, 3), st.integers(0, 2**32))
def test_a_limit_holds_and_the_slate_looks_the_same_afterwards(probs: Probs, k: int, most: int, seed: int) -> None:
    kinds = [item % 3 for item in range(len(probs))]
    slate = sample_slate_where(probs, k, np.random.default_rng(seed), of_kind(kinds, most))
    shown = [kinds[item] for item in slate.items]
    assert all(shown.count(kind) <= most for kind in shown)
    possible = [sum(1 for item, p in enumerate(probs) if p > 0 and kinds[item] == kind) for kind in range(3)]
    assert len(slate.items) == min(k, sum(min(most, n) for n in possible))
    again = propensities_where(probs, slate.items, of_kind(kinds, most))
    np.testing.assert_allclose(again, slate.propensities, rtol=1e-9)


def test_what_a_limit_rules_out_has_no_propensity() -> None:
    probs = np.array([0.5, 0.3, 0.2])
    found = propensities_where(probs, np.array([0, 1, 2]), of_kind([0, 0, 1], 1))
    np.testing.assert_allclose(found, [0.5, 0.0, 1.0])
