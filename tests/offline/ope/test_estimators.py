"""The estimators: numbers by hand, identities that must hold for any log, and coverage of the 95% intervals."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from itertools import permutations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.ope import estimators as ope
from offline.ope.evaluation import OpeConfig, per_slot_terms, row, sample
from service.policy.off_policy import Terms, effective_sample_size, estimate, snips
from service.policy.sampling import Probs

N_LOGS, N_USERS, N_SLATES_OF_USER, K = 500, 150, 2, 2
N_CONTEXTS, A = 3, 5
TAU = 2.5


def value(terms: Terms) -> float:
    return estimate(terms).value


def test_by_hand() -> None:
    r, w = np.array([1.0, 0.0, 2.0]), np.array([0.5, 4.0, 1.0])
    q, v = np.array([0.5, 0.25, 1.0]), np.array([0.75, 0.5, 0.25])
    assert value(ope.on_policy(r)) == pytest.approx(3 / 3)
    assert value(ope.direct_method(v)) == pytest.approx(1.5 / 3)
    assert value(ope.ips(r, w)) == pytest.approx((0.5 + 0 + 2) / 3)
    assert value(snips(r, w)) == pytest.approx(2.5 / 5.5)
    assert value(ope.doubly_robust(r, w, q, v)) == pytest.approx((1.5 + 0.5 * 0.5 + 4 * -0.25 + 1 * 1) / 3)
    assert value(ope.switch_doubly_robust(r, w, q, v, 1.0)) == pytest.approx((1.5 + 0.5 * 0.5 + 1 * 1) / 3)


def test_slates_by_hand() -> None:
    r, w = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[0.5, 4.0], [2.0, 1.0]])  # slate 1 has one slot more at 1
    assert value(ope.slate_ips(r, w)) == pytest.approx((2 * 3 + 2 * 1) / 2)
    assert value(ope.slate_snips(r, w)) == pytest.approx((2 * 3 + 2 * 1) / 4)
    assert value(ope.slate_rips(r, w)) == pytest.approx((0.5 * 1 + 2 * 2 + 2 * 0 + 2 * 1) / 2)


columns = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(0.01, 20), st.floats(-3, 3), st.floats(-3, 3)), min_size=2, max_size=20
)


@given(columns)
def test_identities(drawn: list[tuple[float, float, float, float]]) -> None:
    r, w, q, v = (np.array(column) for column in zip(*drawn, strict=True))
    zero, one = np.zeros_like(r), np.ones_like(r)
    same = partial(pytest.approx, rel=1e-9, abs=1e-9)
    assert value(ope.ips(r, one)) == same(value(ope.on_policy(r)))
    assert value(snips(r, one)) == same(value(ope.on_policy(r)))
    assert value(ope.doubly_robust(r, w, zero, zero)) == same(value(ope.ips(r, w)))
    assert value(ope.doubly_robust(r, w, r, v)) == same(value(ope.direct_method(v)))
    for tau in (0.0, 1.0, math.inf):
        bias = value(ope.switched_off(r, w, q, tau))
        assert value(ope.switch_doubly_robust(r, w, q, v, tau)) + bias == same(value(ope.doubly_robust(r, w, q, v)))
    switched = {tau: value(ope.switch_doubly_robust(r, w, q, v, tau)) for tau in (0.0, math.inf)}
    assert switched[0.0] == same(value(ope.direct_method(v)))
    assert switched[math.inf] == same(value(ope.doubly_robust(r, w, q, v)))
    single_r, single_w = r[:, np.newaxis], w[:, np.newaxis]
    for of_slates in (ope.slate_ips, ope.slate_rips):
        assert value(of_slates(single_r, single_w)) == same(value(ope.ips(r, w)))
    assert value(ope.slate_snips(single_r, single_w)) == same(value(snips(r, w)))


def test_the_bootstrap_agrees_with_the_normal_interval_and_keeps_to_its_seed() -> None:
    rng = np.random.default_rng(0)
    terms, users = snips(rng.random(900), rng.gamma(2.0, size=900)), np.repeat(np.arange(300), 3)
    drawn = ope.bootstrap(terms, users, 2000, np.random.default_rng(1))
    assert drawn == ope.bootstrap(terms, users, 2000, np.random.default_rng(1))
    normal = estimate(terms, users)
    assert drawn == pytest.approx((normal.low, normal.high), abs=0.15 * (normal.high - normal.low))
    assert ope.bootstrap(snips(np.ones(3), np.zeros(3)), None, 10, rng) == (-math.inf, math.inf)
    assert ope.bootstrap(snips(np.zeros(0), np.zeros(0)), None, 10, rng) == (-math.inf, math.inf)


# Coverage: users with a taste (context) and a mood that all their slates share, slates of two drawn by Plackett-Luce.


class World(NamedTuple):
    """Behaviour and target policy [contexts, A], and the chance of a click by context, item and slot."""

    mu: Probs
    pi: Probs
    click: Probs  # [contexts, A, K]


class Logs(NamedTuple):
    """N_LOGS logs at once: [N_LOGS, slates, ...]."""

    context: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]  # [..., K]
    rewards: Probs  # [..., K]
    ratios: Probs  # [..., K]


def make_world() -> World:
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(2, N_CONTEXTS, A)) * np.array([0.5, 1.0])[:, np.newaxis, np.newaxis]
    mu, pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    click = 0.2 + 0.5 * rng.random((N_CONTEXTS, A, 1)) + np.array([0.1, 0.0])
    return World(mu, pi, click)


def conditional(policy: Probs, context: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> Probs:
    """[..., K] probability of each slot's item, given the one above."""
    first, second = (policy[context, items[..., k]] for k in range(K))
    return np.stack([first, second / (1 - first)], -1)


def draw_logs(world: World) -> Logs:
    rng = np.random.default_rng(11)
    context = rng.integers(N_CONTEXTS, size=(N_LOGS, N_USERS)).repeat(N_SLATES_OF_USER, 1)
    mood = rng.normal(0, 0.3, size=(N_LOGS, N_USERS)).repeat(N_SLATES_OF_USER, 1)
    keys = np.log(world.mu)[context] + rng.gumbel(size=(*context.shape, A))
    items = np.argsort(-keys, axis=-1)[..., :K]
    clicked = rng.random(items.shape) < np.stack([world.click[context, items[..., k], k] for k in range(K)], -1)
    ratios = conditional(world.pi, context, items) / conditional(world.mu, context, items)
    return Logs(context, items, clicked + mood[..., np.newaxis], ratios)


def truths(world: World) -> tuple[float, float]:
    """Reward per slot of a single deviation of the target, and reward per slate of its own slates."""
    slot = slate = 0.0
    for context in range(N_CONTEXTS):
        mu, pi, click = world.mu[context], world.pi[context], world.click[context]
        slot += float(pi @ click[:, 0])
        for first, second in permutations(range(A), 2):
            slot += mu[first] * pi[second] / (1 - pi[first]) * click[second, 1]
            slate += pi[first] * pi[second] / (1 - pi[first]) * (click[first, 0] + click[second, 1])
    return slot / N_CONTEXTS / K, slate / N_CONTEXTS


def predictions(world: World, logs: Logs, number: int) -> tuple[Probs, Probs]:
    """q_logged and q_target [slates, K] of one log, from a table cross-fitted over two halves of the users."""
    context, items, rewards = logs.context[number], logs.items[number], logs.rewards[number]
    half = np.repeat(np.arange(N_USERS) % 2, N_SLATES_OF_USER)
    pi = np.broadcast_to(world.pi[context][:, np.newaxis], (len(context), K, A)).copy()
    pi[np.arange(len(context)), 1, items[:, 0]] = 0.0
    pi /= pi.sum(-1, keepdims=True)
    q_logged, q_target = np.zeros(rewards.shape), np.zeros(rewards.shape)
    for fold in (0, 1):
        train, test = half != fold, half == fold
        for k in range(K):
            cell = context[train] * A + items[train, k]
            counts = np.bincount(cell, minlength=N_CONTEXTS * A)
            sums = np.bincount(cell, rewards[train, k], N_CONTEXTS * A)
            table = ((sums + rewards[train, k].mean()) / (counts + 1)).reshape(N_CONTEXTS, A)
            q_logged[test, k] = table[context[test], items[test, k]]
            q_target[test, k] = (pi[test, k] * table[context[test]]).sum(-1)
    return q_logged, q_target


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def logs(world: World) -> Logs:
    return draw_logs(world)


def covers(terms: Terms, clusters: npt.NDArray[np.int64] | None, truth: float) -> bool:
    _, low, high = estimate(terms, clusters)
    return low <= truth <= high


def test_the_intervals_cover_the_truth(world: World, logs: Logs) -> None:
    slot_truth, slate_truth = truths(world)
    of_slate = np.repeat(np.arange(N_USERS), N_SLATES_OF_USER)
    of_slot = of_slate.repeat(K)
    hits: dict[str, int] = {}
    for number in range(N_LOGS):
        rewards, ratios = logs.rewards[number], logs.ratios[number]
        r, w = rewards.ravel(), ratios.ravel()
        q, v = (part.ravel() for part in predictions(world, logs, number))
        slots = {
            "ips": ope.ips(r, w),
            "snips": snips(r, w),
            "dr": ope.doubly_robust(r, w, q, v),
        }
        slates = {
            "slate_ips": ope.slate_ips(rewards, ratios),
            "slate_snips": ope.slate_snips(rewards, ratios),
            "slate_rips": ope.slate_rips(rewards, ratios),
        }
        outcomes = {name: covers(terms, of_slot, slot_truth) for name, terms in slots.items()}
        outcomes |= {name: covers(terms, of_slate, slate_truth) for name, terms in slates.items()}
        _, low, high = estimate(ope.switch_doubly_robust(r, w, q, v, TAU), of_slot)
        low, high = ope.widened(low, high, value(ope.switched_off(r, w, q, TAU)))
        outcomes["switch_dr"] = low <= slot_truth <= high
        outcomes["ips, slots taken for independent"] = covers(slots["ips"], None, slot_truth)
        for name, hit in outcomes.items():
            hits[name] = hits.get(name, 0) + hit
    coverage = {name: count / N_LOGS for name, count in hits.items()}
    assert 0.01 < (logs.ratios > TAU).mean() < 0.2  # switching happens, and is not all that happens
    naive = coverage.pop("ips, slots taken for independent")
    assert naive < 0.93, "the logs do not need clusters, so this test could not see them missing"
    assert min(coverage.values()) >= 0.93, coverage


def test_doubly_robust_is_the_most_certain(world: World, logs: Logs) -> None:
    clusters = np.repeat(np.arange(N_USERS), N_SLATES_OF_USER * K)
    r, w = logs.rewards[0].ravel(), logs.ratios[0].ravel()
    q, v = (part.ravel() for part in predictions(world, logs, 0))
    widths = [np.ptp(estimate(terms, clusters)[1:]) for terms in (ope.ips(r, w), ope.doubly_robust(r, w, q, v))]
    assert widths[1] < widths[0]


@pytest.mark.parametrize("n", [10, 40, 200, 2_000])  # effective sample sizes of about 5, 20, 100 and 1,000
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.95])
def test_intervals_hold_at_small_sizes_too_and_say_where_they_cannot_tell(n: int, rate: float) -> None:
    """500 logs of a policy that shows one of two items evenly; the target shows the second one nine times in ten. The
    reward model is each item's mean in the other half of the log."""
    rng, config, rates = np.random.default_rng(n), OpeConfig(), np.array([rate / 3, rate])
    truth, hits, told = 0.1 * rates[0] + 0.9 * rates[1], Counter[str](), Counter[str]()
    for _ in range(500):
        shown = rng.integers(2, size=n)
        rewards = (rng.random(n) < rates[shown]).astype(float)
        ratios = np.where(shown == 1, 1.8, 0.2)
        folds, q = rng.integers(2, size=n), np.zeros((n, 2))
        for fold in (0, 1):
            for item in (0, 1):
                others = rewards[(folds != fold) & (shown == item)]
                q[folds == fold, item] = (others.sum() + 0.2) / (len(others) + 2)
        terms = per_slot_terms(rewards, ratios, q[np.arange(n), shown], q @ [0.1, 0.9], ope.default_tau(n))
        for name in ("ips", "snips", "dr", "switch_dr"):
            worth = sample(name, rewards, effective_sample_size(ratios), largest=1.0)
            found = row(terms[name], np.arange(n), config, worth)
            if found.low is None or found.high is None:
                assert worth.ess < 10
                continue
            told[name] += 1
            hits[name] += found.low <= truth <= found.high
    assert all(hits[name] >= 0.93 * told[name] for name in told), hits
    assert len(told) == 4 or n == 10
