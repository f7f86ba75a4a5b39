"""Drifting tastes: how far, by what clock, and that old evidence misleads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.world.drift import STEPS, Drift, rotation
from simulator.world.environment import SessionBatch
from simulator.world.likeness import Indices
from simulator.world.rollout import oracle_slate, popularity_policy, rollout
from tests.simulator.world_examples import world_of


def test_tastes_swing_to_another_truth_and_back() -> None:
    users = world_of("drift").users
    drift = Drift(users, period=4_000)
    assert [drift.angle(step) for step in (0, 1_000, 2_000, 4_000)] == pytest.approx([0, math.pi / 4, math.pi / 2, 0])
    start, half, end = (drift.population(step) for step in (0, 2_000, 4_000))
    np.testing.assert_allclose(start.affinity, users.affinity, rtol=1e-4)
    np.testing.assert_allclose(end.affinity, start.affinity, rtol=1e-4)
    np.testing.assert_allclose(np.sort(half.item_bias), np.sort(users.item_bias), atol=1e-5)
    assert abs(np.corrcoef(half.item_bias, users.item_bias)[0, 1]) < 0.3
    np.testing.assert_array_equal(half.item_vectors, users.item_vectors)
    for step in (300, 1_000, 2_000):
        now = drift.population(step)
        norms, at_first = (np.linalg.norm(truth.user_factors, axis=1) for truth in (now, users))
        np.testing.assert_allclose(norms, at_first, rtol=1e-4)
        np.testing.assert_allclose(now.affinity.mean(axis=1), users.affinity.mean(axis=1), rtol=1e-3)


def test_a_rotation_turns_planes() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    turned = rotation(basis, 0.7)
    np.testing.assert_allclose(turned @ turned.T, np.eye(5), atol=1e-6)
    np.testing.assert_allclose(turned @ basis[:, 4], basis[:, 4], atol=1e-6)
    np.testing.assert_allclose([basis[:, i] @ turned @ basis[:, i] for i in range(4)], [math.cos(0.7)] * 4, atol=1e-6)
    np.testing.assert_allclose(rotation(basis, math.pi / 2) @ basis[:, 0], basis[:, 1], atol=1e-6)


def test_drift_goes_by_the_number_of_the_session_and_not_by_who_is_beside_it() -> None:
    world = world_of("drift", drift_period=40 * STEPS)
    users = np.arange(12)
    together, alone = (SessionBatch(world, np.random.default_rng(0)) for _ in range(2))
    together.reset(users, first=795)
    assert together.sessions.tolist() == list(range(795, 807))
    alone.reset(users)
    for row in range(12):
        alone.reset(users[[row]], np.array([row]), first=795 + row)
    np.testing.assert_array_equal(together.affinity, alone.affinity)
    (early, before), (late, after) = together.populations()
    assert before.tolist() == list(range(5)) and after.tolist() == list(range(5, 12))
    np.testing.assert_allclose(together.affinity[before], early.affinity[users[before]], rtol=1e-4)
    np.testing.assert_allclose(together.affinity[after], late.affinity[users[after]], rtol=1e-4)
    again = world_of("drift", drift_period=40 * STEPS).drift
    assert again is not None
    np.testing.assert_array_equal(again.affinity(7, 802), together.affinity[7])
    assert (Drift(world.users, 40 * STEPS, seed=1).affinity(7, 802) != together.affinity[7]).any()


def test_what_was_popular_is_a_bad_guide_later() -> None:
    world = world_of("drift", drift_period=2_000)

    def stale(batch: SessionBatch) -> Indices:
        order = np.argsort(-world.popularity, kind="stable")
        return np.stack([order[~seen[order]][:3] for seen in batch.seen])

    def blind(batch: SessionBatch) -> Indices:
        """Those who come, with the tastes they had at first."""
        return np.argsort(np.where(batch.seen, 0, -world.users.affinity[batch.users]), axis=1, kind="stable")[:, :3]

    old, current, without_time, oracle = (
        rollout(world, policy, 0, 1_000).reward for policy in (stale, popularity_policy, blind, oracle_slate)
    )
    np.testing.assert_array_equal(old[:50], current[:50])
    assert old[700:].mean() < 0.8 * current[700:].mean()
    assert without_time[:100].mean() > 0.95 * oracle[:100].mean()
    assert without_time[700:].mean() < 0.7 * oracle[700:].mean()
