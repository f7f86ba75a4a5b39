"""The hybrid model against the ridge regression it eliminates from, and popularity against its Beta posterior."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.experiments.methods.bandits import BanditAgent, HybridRidge
from simulator.experiments.methods.simple import PopularityAgent
from simulator.experiments.runs.play import play_agent
from simulator.experiments.seam.agent import Outcome, Sessions, Slates
from tests.simulator.baseline_examples import Watched, make_agent, make_toy_world

RIDGE, ITEM_RIDGE = 0.7, 3.0


def _full_posterior(
    x: np.ndarray, items: np.ndarray, rewards: np.ndarray, n_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse precision of (beta, theta) by one large ridge regression."""
    rows = np.concatenate([x, np.eye(n_items)[items]], axis=1)
    prior = np.diag([RIDGE] * x.shape[1] + [ITEM_RIDGE] * n_items)
    covariance = np.linalg.inv(rows.T @ rows + prior)
    return covariance @ rows.T @ rewards, covariance


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 4)), rng.integers(6, size=50), rng.random(50)


def test_the_posterior_is_that_of_the_full_ridge_regression(
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x, items, rewards = data
    model = HybridRidge(7, 4, RIDGE, ITEM_RIDGE)  # item 6 was never shown
    for part in np.split(np.arange(50), [13, 30]):
        model.update(x[part], items[part], rewards[part])
    mean, covariance = _full_posterior(x, items, rewards, 7)
    np.testing.assert_allclose(model.beta, mean[:4])
    new = np.random.default_rng(1).normal(size=(7, 4))
    full = np.concatenate([new, np.eye(7)], axis=1)
    np.testing.assert_allclose((new - model.centre) @ model.beta + model.offset, full @ mean)
    variance = (((new - model.centre) @ model.root) ** 2).sum(axis=1) + model.item_deviation**2
    np.testing.assert_allclose(variance, np.einsum("pd,de,pe->p", full, covariance, full))


@pytest.mark.parametrize("kind", ["linucb", "linear_ts"])
def test_scores_are_of_the_posterior(kind: str) -> None:
    """What the agent ranks by, rebuilt from the features alone; for draws, their mean and variance over many."""
    agent = make_agent(kind, {"dim": 3, "width": 0.3, "ridge": RIDGE, "item_ridge": ITEM_RIDGE})
    assert isinstance(agent, BanditAgent)
    play_agent(make_toy_world(), agent, seed=1, n_sessions=40)
    some = Sessions(np.array([[[4, 5, 6]]]), np.array([[[True, False, True]]]), np.zeros((1, 60), np.bool_))
    model = agent.model
    x = agent._features.all_items(some)[0] - model.centre
    mean = x @ model.beta + model.offset
    deviation = 0.3 * np.sqrt(((x @ model.root) ** 2).sum(axis=1) + model.item_deviation**2)
    if kind == "linucb":
        np.testing.assert_allclose(agent._bound(some)[0], mean + deviation, rtol=1e-3, atol=1e-5)
        return
    draws = agent._draw(Sessions._make(np.repeat(column, 4000, axis=0) for column in some))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=5 * deviation.max() / 4000**0.5)
    np.testing.assert_allclose(draws.std(axis=0), deviation, rtol=0.08)


def test_features_of_some_items_are_those_of_all() -> None:
    agent = make_agent("linucb", {"dim": 3})
    assert isinstance(agent, BanditAgent)
    shown = np.arange(12).reshape(2, 2, 3)
    sessions = Sessions(shown, shown % 2 == 0, np.zeros((2, 60), np.bool_))
    items = np.array([[20, 0, 33], [59, 7, 1]])
    every = agent._features.all_items(sessions)
    np.testing.assert_allclose(
        agent._features.some_items(sessions, items), every[np.arange(2)[:, None], items], rtol=1e-5, atol=1e-6
    )


def test_popularity_counts_what_was_shown() -> None:
    agent = make_agent("popularity", {"prior_strength": 4.0, "prior_rate": 0.25, "leave_penalty": 2.0})
    assert isinstance(agent, PopularityAgent)
    before = Sessions(np.zeros((2, 0, 3), np.int64), np.zeros((2, 0, 3), np.bool_), np.zeros((2, 60), np.bool_))
    slates = Slates(np.array([[3, 9, 4], [9, 3, -1]]))
    outcome = Outcome(np.array([[1, 0, 0], [1, 1, 0]], np.float32), np.array([False, True]))
    agent.observe(before, slates, outcome)
    alpha, beta = agent.posterior()
    rate = (3 + 4 * 0.25) / (5 + 4)
    np.testing.assert_allclose(alpha[[3, 9, 4, 0]], np.array([2, 1, 0, 0]) + 4 * rate)
    # Two more failures for each item of the slate that drove a user away.
    np.testing.assert_allclose(beta[[3, 9, 4, 0]], np.array([0 + 2, 1 + 2, 1, 0]) + 4 * (1 - rate))


def test_popularity_tries_everything_and_then_settles() -> None:
    watched = Watched(make_agent("popularity", {}))
    play_agent(make_toy_world(), watched, seed=5, n_sessions=1500)
    early, late = np.concatenate(watched.slates[:10]), np.concatenate(watched.slates[-10:])
    assert len(np.unique(early)) == 60
    share = np.sort(np.bincount(late[:, 0], minlength=60))[-20:].sum() / len(late)
    assert share > 0.6
