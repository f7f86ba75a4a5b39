"""Deployments that go wrong: the watch ends it, nothing else does, and the losses add up."""

from __future__ import annotations

import numpy as np
import pytest

from offline.datasets import Item, Scenario
from simulator.experiments.runs.degradation import DeploymentResult, Plan, reverse_order, reverse_popularity, simulate
from simulator.experiments.seam.agent import Catalogue, Setting
from simulator.world.environment import EnvironmentConfig
from tests.simulator.world_examples import make_world, unit

WORLD = make_world(EnvironmentConfig(slate_size=3, max_turn=4, leave_quantile=0.01), n_users=400)
ITEMS = tuple(Item(f"i{n}", f"thing {n}", ()) for n in range(WORLD.n_items))
CATALOGUE = Catalogue("made up", Scenario(), ITEMS, unit(WORLD.n_items, 384), 3, 4)
QUICK = {"n_sessions": 3_000, "fault_at": 1_000, "publish_every": 400, "control_share": 0.3}


def play(**plan: object) -> DeploymentResult:
    setting = Setting(CATALOGUE, 0, {"variant": "ap"})
    return simulate(WORLD, setting, Plan(**{"fault": "none", "seed": 0, **QUICK, **plan}))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_bad_update_is_rolled_back_and_the_reward_comes_back() -> None:
    watched, unwatched = play(fault="bad_update"), play(fault="bad_update", watched=False)
    assert watched.before == unwatched.before and watched.before[1] > watched.before[0]
    assert watched.during[1] < 0.9 * watched.during[0], "it is bad"
    assert watched.fault_at is not None and watched.retreated_at is not None
    assert watched.fault_at < watched.retreated_at < watched.slates
    assert watched.after[1] >= 0.95 * watched.after[0]
    assert unwatched.retreated_at is None and unwatched.after == (0.0, 0.0)
    assert 0 < watched.lost < 0.7 * unwatched.lost


@pytest.mark.slow
def test_nothing_is_rolled_back_without_a_reason() -> None:
    assert play().retreated_at is None
    assert play(learns=False).retreated_at is None


def test_the_same_seed_gives_the_same_deployment() -> None:
    short = {"n_sessions": 500, "fault_at": 250}
    assert play(fault="taste_shift", **short) == play(fault="taste_shift", **short)


def test_reversed_tastes_are_the_same_tastes_for_other_items() -> None:
    other = reverse_popularity(WORLD)
    order = np.argsort(WORLD.popularity)
    np.testing.assert_allclose(other.popularity[order], WORLD.popularity[order][::-1], rtol=1e-5)
    np.testing.assert_allclose(np.sort(other.users.affinity, axis=1), np.sort(WORLD.users.affinity, axis=1), rtol=1e-4)


def test_a_reversed_order_keeps_the_probabilities() -> None:
    probs = np.array([[0.1, 0.6, 0.3, 0.0]])
    backward = reverse_order(probs, np.array([[True, True, True, False]]))
    assert backward.tolist() == [[pytest.approx(0.6), pytest.approx(0.1), pytest.approx(0.3), 0.0]]
