"""The worlds: their equations against numbers worked out by hand, the same luck for all, what each of them rewards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from world_examples import make_world

from simulator.drift import STEPS, Drift, rotation
from simulator.environment import EnvironmentConfig, SessionBatch, World, leave_probability
from simulator.likeness import Indices
from simulator.rollout import (
    PolicyFn,
    PopulationOracle,
    item_oracle_slate,
    oracle_slate,
    popularity_policy,
    random_policy,
    rollout,
)
from simulator.world_kinds import BOREDOM, WORLDS, WorldName
from simulator.worlds import rules_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"
MORE = WORLDS["more"].rules


def world_of(name: WorldName, n_users: int = 40, n_items: int = 200, **changes: object) -> World:
    rules = replace(EnvironmentConfig(slate_size=3, leave_quantile=0.001), **WORLDS[name].rules)
    return make_world(replace(rules, **changes), n_users, n_items)  # type: ignore[arg-type]


def disjoint_slates(n: int, turns: int = 10, n_items: int = 200) -> Indices:
    """[n, turns, 3] items, none twice in a session."""
    rng = np.random.default_rng(5)
    return rng.permuted(np.tile(np.arange(n_items), (n, 1)), axis=1)[:, : 3 * turns].reshape(n, turns, 3)


# Boredom is what it was


def test_boredom_is_bit_by_bit_what_it_was_before_there_were_other_worlds() -> None:
    """Recorded with the code before: rewards, turns and early ends of 600 sessions, summed, and coverage."""
    world = make_world()
    policies: list[PolicyFn] = [
        random_policy(0),
        popularity_policy,
        oracle_slate,
        item_oracle_slate,
        PopulationOracle(world),
    ]
    found = [rollout(world, policy, 0, 600) for policy in policies]
    assert [(float(s.reward.sum()), int(s.length.sum()), int(s.bored.sum()), s.coverage) for s in found] == [
        (4415.0, 5821, 45, 1.0),
        (6832.0, 6000, 0, 0.5),
        (7794.0, 6000, 0, pytest.approx(55 / 60)),
        (7464.0, 6000, 0, 0.5),
        (7684.0, 6000, 0, pytest.approx(58 / 60)),
    ]


@pytest.mark.parametrize("name", ["lfm", "industry", "coat", "movielens"])
def test_records_from_before_there_were_worlds_are_of_boredom(name: str) -> None:
    with (RESULTS / f"{name}.jsonl").open() as file:
        recorded = json.loads(next(file))["configuration"]["environment"]
    assert recorded["rules"] == rules_of(name, BOREDOM).rules()
    assert "world" not in recorded and "base" not in recorded


# Leaving


def test_the_chance_to_leave_falls_after_a_like_and_rises_with_slates_in_vain() -> None:
    found = leave_probability(np.array([0, 1, 2, 3, 9]), 0.02, 2.0)
    np.testing.assert_allclose(found, [0.01, 0.02, 0.04, 0.08, 1.0], rtol=1e-6)
    np.testing.assert_allclose(leave_probability(np.arange(5), 0.02, 1.0), [0.02] * 5, rtol=1e-6)


def test_calm_users_leave_by_chance_whatever_they_are_shown() -> None:
    chance, best = (rollout(world_of("calm"), policy, 0, 1_500) for policy in (random_policy(0), oracle_slate))
    np.testing.assert_array_equal(chance.length, best.length)
    assert best.length.mean() == pytest.approx((1 - 0.98**10) / 0.02, abs=4 * best.length.std() / math.sqrt(1_500))
    early = best.length < 10
    assert best.bored[early].all() and best.bored[~early].mean() == pytest.approx(0.02, abs=0.01)


def turns_survived(chances: list[float]) -> float:
    """Mean number of turns where the user leaves after turn t with chances[t]."""
    return sum(math.prod(1 - chance for chance in chances[:turn]) for turn in range(10))


@pytest.mark.parametrize(
    ("liked", "chances"), [(True, [0.01] * 10), (False, [min(1.0, 0.02 * 2**turn) for turn in range(10)])]
)
def test_who_wants_more_stays_for_likes_and_goes_without(liked: bool, chances: list[float]) -> None:
    n = 8_000
    world = world_of("more", n_users=1)
    users = replace(world.users, user_bias=np.full(1, 60.0 if liked else -60.0, np.float32))
    batch = SessionBatch(World(users, world.config), np.random.default_rng(0))
    batch.reset(np.zeros(n, np.int64))
    batch.affinity[:] = 1 - 1e-6 if liked else 1e-6
    slates = np.tile(np.arange(30).reshape(10, 1, 3), (1, n, 1))
    for slate in slates:
        batch.show(slate)
    assert batch.turn.mean() == pytest.approx(turns_survived(chances), abs=4 * batch.turn.std() / math.sqrt(n))


# Responses


def test_what_is_close_to_likes_is_liked_more_and_what_is_close_to_the_rest_less() -> None:
    """The equation of `more` as loops over all that the session was shown."""
    world = world_of("more", n_users=7, n_items=60, hazard=0.0)
    vectors = world.users.item_vectors
    batch = SessionBatch(world, np.random.default_rng(0))
    users = np.array([4, 2, 6])
    batch.reset(users)
    slates = disjoint_slates(3, 4, 60)
    for turn in range(4):
        batch.show(slates[:, turn])
    assert 0 < batch.responses.sum() < 36
    found = batch.probability(None, np.arange(3))
    for row, user in enumerate(users):
        for item in set(range(60)) - set(slates[row].ravel().tolist()):
            logit = math.log(world.users.affinity[user, item] / (1 - world.users.affinity[user, item]))
            for turn in range(4):
                for slot, shown in enumerate(slates[row, turn]):
                    close = max(0.0, float(vectors[item] @ vectors[shown])) * MORE["satiation_decay"] ** (3 - turn)
                    logit += close * (MORE["attraction"] if batch.responses[row, turn, slot] else -MORE["aversion"])
            assert found[row, item] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-4)


def test_calm_users_take_each_slate_by_itself() -> None:
    world = world_of("calm", hazard=0.0)
    batch = SessionBatch(world, np.random.default_rng(0))
    batch.reset(np.arange(20))
    slates = disjoint_slates(20)
    for turn in range(10):
        expected = np.take_along_axis(world.users.affinity[:20], slates[:, turn], axis=1)
        np.testing.assert_allclose(batch.probability(slates[:, turn], np.arange(20)), expected, rtol=1e-5)
        batch.show(slates[:, turn])
    assert not batch.left.any() and not batch.bores(None, np.arange(20)).any()


# Drift


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
        norms = (np.linalg.norm(truth.user_factors, axis=1) for truth in (now, users))
        np.testing.assert_allclose(*norms, rtol=1e-4)
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


# All worlds


@pytest.mark.parametrize("name", WORLDS)
def test_knowing_more_earns_more_in_every_world(name: WorldName) -> None:
    world = world_of(name)
    chance, items, stranger, best = (
        rollout(world, policy, 0, 400).reward.mean()
        for policy in (random_policy(0), item_oracle_slate, PopulationOracle(world), oracle_slate)
    )
    assert chance < items < stranger < best


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_seed_brings_the_same_sessions_and_another_seed_others(name: WorldName) -> None:
    one, same, other = (rollout(world_of(name), popularity_policy, seed, 300) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.reward, same.reward)
    np.testing.assert_array_equal(one.length, same.length)
    assert (one.reward != other.reward).any()


@pytest.mark.parametrize("name", WORLDS)
def test_the_first_slate_is_answered_alike_in_all_worlds(name: WorldName) -> None:
    answers = []
    for world in (world_of(BOREDOM), world_of(name)):
        batch = SessionBatch(world, np.random.default_rng(3))
        batch.reset(np.arange(40))
        answers.append(batch.show(disjoint_slates(40)[:, 0])[0])
    np.testing.assert_array_equal(*answers)
    assert answers[0].any()


@pytest.mark.parametrize("name", WORLDS)
def test_the_population_oracle_believes_what_bayes_says_in_every_world(name: WorldName) -> None:
    """Expected: for every user the product of the true probabilities of all that the session answered."""
    world = world_of(name, n_users=7, n_items=40, drift_period=80 if name == "drift" else None)
    oracle, batch = PopulationOracle(world), SessionBatch(world, np.random.default_rng(1))
    users, rows = np.array([2, 5, 0, 5, 6]), np.arange(5)
    batch.reset(users, first=19)  # with a step of two, in three steps of the drift
    as_users = [SessionBatch(world, np.random.default_rng(0)) for _ in range(world.n_users)]
    for user, alike in enumerate(as_users):
        alike.reset(np.full(5, user), first=19)
    expected = np.zeros((5, world.n_users))
    for turn in range(4):
        slates = oracle(batch)
        belief = np.exp(oracle.log_belief - oracle.log_belief.max(axis=1, keepdims=True))
        wanted = np.exp(expected - expected.max(axis=1, keepdims=True))
        np.testing.assert_allclose(
            belief / belief.sum(axis=1, keepdims=True), wanted / wanted.sum(axis=1, keepdims=True), rtol=2e-3
        )
        live = np.flatnonzero(~batch.done)
        batch.show(slates)
        for user, alike in enumerate(as_users):
            p = alike.probability(slates, rows)
            told = np.log(np.where(batch.responses[:, turn], p, 1 - p)).sum(axis=1)
            expected[live, user] += told[live]
            alike.show(slates)
            # What they answered is what the session did; and so is who stays.
            alike.responses[:], alike.left[:] = batch.responses, batch.left
