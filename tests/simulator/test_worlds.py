"""The worlds: their equations against numbers worked out by hand, the same luck for all, what each of them rewards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.world.environment import SessionBatch, World, leave_probability
from simulator.world.kinds import BOREDOM, WORLDS, WorldName
from simulator.world.likeness import Indices
from simulator.world.rollout import (
    PolicyFn,
    PopulationOracle,
    item_oracle_slate,
    oracle_slate,
    popularity_policy,
    random_policy,
    rollout,
)
from simulator.world.worlds import rules_of
from tests.simulator.world_examples import make_world, world_of

RESULTS = Path(__file__).parents[2] / "docs" / "results"
MORE = WORLDS["more"].rules


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
    np.testing.assert_array_equal(answers[0], answers[1])
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
