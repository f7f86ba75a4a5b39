"""The world's rules against numeric oracles, and many sessions at once against one at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.world.environment import EnvironmentConfig, SessionBatch, response_probability
from simulator.world.likeness import LeaveWindow, distance_quantile, exposure_to, leave_window_length, too_close
from simulator.world.rollout import (
    PolicyFn,
    PopulationOracle,
    item_oracle_slate,
    oracle_slate,
    popularity_policy,
    random_policy,
    rollout,
    session_diversity,
)
from simulator.world.users import Floats
from tests.simulator.world_examples import make_world, unit

# Rules


def test_response_probability_lowers_the_logit() -> None:
    affinity, exposure = np.array([0.5, 0.5, 0.9], np.float32), np.array([0.0, 2.0, 3.0], np.float32)
    expected = [0.5, 1 / (1 + math.exp(1)), 1 / (1 + math.exp(-(math.log(9) - 1.5)))]
    np.testing.assert_allclose(response_probability(affinity, -0.5 * exposure), expected, rtol=1e-5)


def test_exposure_sums_positive_cosines() -> None:
    candidates = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)
    shown = np.array([[[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]]], np.float32)
    weights = np.array([[1.0, 1.0, 0.5]], np.float32)
    np.testing.assert_allclose(exposure_to(candidates, shown, weights), [[1.0 + 0.3, 0.4]], rtol=1e-6)


def leaves_literally(
    sequence: list[int], item: int, distance: Floats, n: int, threshold: float, rule: LeaveWindow
) -> bool:
    """EasyRL4Rec's rule word for word, on a list of the items shown before."""
    t = len(sequence)
    if t == 0:
        return False
    window = sequence[t - n : t] if rule == "upstream" else sequence[max(0, t - n) : t]
    return any(distance[item, shown] < threshold for shown in window)


@given(turn=st.integers(0, 30), n=st.integers(1, 12))
def test_leave_window_is_the_python_slice(turn: int, n: int) -> None:
    sequence = list(range(turn))
    upstream = leave_window_length(np.array([turn]), n, "upstream")[0]
    corrected = leave_window_length(np.array([turn]), n, "corrected")[0]
    assert sequence[turn - upstream :] == (sequence[turn - n : turn] if turn else [])
    assert sequence[turn - corrected :] == sequence[max(0, turn - n) : turn]


@pytest.mark.parametrize("rule", ["corrected", "upstream"])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_sessions_of_single_items_leave_as_easyrl4rec_says(rule: LeaveWindow, n: int) -> None:
    config = EnvironmentConfig(slate_size=1, max_turn=20, num_leave_compute=n, leave_quantile=0.1, leave_window=rule)
    world = make_world(config, n_items=40)
    vectors = world.users.item_vectors
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    rng = np.random.default_rng(1)
    batch = SessionBatch(world, rng)
    batch.reset(rng.integers(world.n_users, size=200))
    items = np.argsort(rng.random((200, 40)), axis=1)[:, :20]
    sequences: list[list[int]] = [[] for _ in range(200)]
    bored = 0
    for turn in range(20):
        was_done = batch.done.copy()
        batch.show(items[:, [turn]])
        for row, sequence in enumerate(sequences):
            if not was_done[row]:
                item = int(items[row, turn])
                leaves = leaves_literally(sequence, item, distance, n, world.leave_threshold, rule)
                assert batch.left[row] == leaves
                bored += leaves
                sequence.append(item)
    assert 100 < bored <= 200


def test_the_upstream_window_sees_less_early_on() -> None:
    turns = np.arange(8)
    assert leave_window_length(turns, 5, "corrected").tolist() == [0, 1, 2, 3, 4, 5, 5, 5]
    assert leave_window_length(turns, 5, "upstream").tolist() == [0, 1, 2, 2, 1, 5, 5, 5]


def test_too_close_is_a_distance_and_counts_only_what_is_marked() -> None:
    candidates, shown = unit(4, 6, 3), unit(4, 5, 3, seed=1)
    counted = np.random.default_rng(2).random((4, 5)) < 0.5
    distance = np.linalg.norm(candidates[:, :, None] - shown[:, None], axis=3)
    expected = ((distance < 0.7) & counted[:, None]).any(axis=2)
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(too_close(candidates, shown, counted, 0.7), expected)


def test_distance_quantile_is_that_of_all_pairs() -> None:
    vectors = unit(30, 3)
    distances = [float(np.linalg.norm(vectors[i] - vectors[j])) for i in range(30) for j in range(i)]
    threshold = distance_quantile(vectors, 0.1)
    assert np.mean(np.array(distances) < threshold) == pytest.approx(0.1, abs=0.005)


# Sessions


def test_probability_follows_the_rules_written_as_loops() -> None:
    world = make_world(replace(make_world().config, satiation_window=2, leave_quantile=0.0))
    config, vectors = world.config, world.users.item_vectors
    batch = SessionBatch(world, np.random.default_rng(0))
    batch.reset(np.array([4, 2]))
    slates = np.array([[[1, 2, 3], [4, 5, -1], [6, 7, 8]], [[9, 10, 11], [12, 13, 14], [15, 16, 17]]])
    for turn in range(3):
        batch.show(slates[:, turn])
    found = batch.probability(None, np.arange(2))
    for row, user in enumerate((4, 2)):
        for item in range(world.n_items):
            exposure = 0.0
            for age, turn in ((1, 2), (2, 1)):
                for shown in slates[row, turn]:
                    if shown >= 0:
                        exposure += config.satiation_decay ** (age - 1) * max(
                            0.0, float(vectors[item] @ vectors[shown])
                        )
            p = float(world.users.affinity[user, item])
            expected = 1 / (1 + math.exp(-(math.log(p / (1 - p)) - config.satiation * exposure)))
            seen = item in slates[row]
            assert found[row, item] == pytest.approx(0.0 if seen else expected, rel=1e-4)
    chosen = np.array([[0, 20, 30], [31, 21, 0]])
    np.testing.assert_allclose(
        batch.probability(chosen, np.arange(2)), np.take_along_axis(found, chosen, axis=1), rtol=1e-5
    )


def test_rewards_come_as_often_as_their_probability_says() -> None:
    world = make_world()
    batch = SessionBatch(world, np.random.default_rng(0))
    batch.reset(np.full(20_000, 3))
    rewards, _ = batch.show(np.tile([5, 6, 7], (20_000, 1)))
    expected = world.users.affinity[3, [5, 6, 7]]
    np.testing.assert_allclose(rewards.mean(axis=0), expected, atol=4 * 0.5 / math.sqrt(20_000))


def test_repeated_and_missing_items_earn_nothing() -> None:
    world = make_world(replace(make_world().config, leave_quantile=0.0))
    batch = SessionBatch(world, np.random.default_rng(0))
    batch.reset(np.zeros(5000, np.int64))
    best = int(world.users.affinity[0].argmax())
    first, _ = batch.show(np.tile([best, best, -1], (5000, 1)))
    again, _ = batch.show(np.tile([-1, best, -1], (5000, 1)))
    assert first[:, 0].mean() > 0.3
    assert first[:, 1:].sum() == 0
    assert again.sum() == 0
    assert batch.turn.tolist() == [2] * 5000


def test_an_ended_session_stays_as_it_is() -> None:
    world = make_world(EnvironmentConfig(slate_size=1, max_turn=4))
    batch = SessionBatch(world, np.random.default_rng(0))
    batch.reset(np.array([0, 1]))
    batch.show(np.array([[3], [4]]))
    _, done = batch.show(np.array([[3], [-1]]))  # the same item again: distance 0
    assert done.tolist() == [True, False]
    before = batch.shown[0].copy()
    rewards, done = batch.show(np.array([[9], [-1]]))
    assert rewards[0] == 0 and done.tolist() == [True, False]
    np.testing.assert_array_equal(batch.shown[0], before)
    _, done = batch.show(np.array([[9], [-1]]))
    assert done.tolist() == [True, True]
    assert batch.left.tolist() == [True, False]


def test_some_rows_at_a_time_go_as_all_at_once() -> None:
    world = make_world()
    slates = np.random.default_rng(5).permuted(np.tile(np.arange(60), (6, 1)), axis=1)[:, :15].reshape(6, 5, 3)
    together, apart = (SessionBatch(world, np.random.default_rng(0)) for _ in range(2))
    for batch in (together, apart):
        batch.reset(np.arange(6))
    for turn in range(5):
        rewards, done = together.show(slates[:, turn])
        for row in (3, 0, 5, 1, 4, 2):
            one, one_done = apart.show(slates[[row], turn], np.array([row]))
            np.testing.assert_array_equal(one[0], rewards[row])
            assert one_done[0] == done[row]
    np.testing.assert_array_equal(together.responses, apart.responses)
    apart.reset(np.array([6, 6]), np.array([1, 4]))
    assert apart.users.tolist() == [0, 6, 2, 3, 6, 5]
    assert apart.turn[[1, 4]].tolist() == [0, 0] and apart.turn[0] > 0


# Policies and rollouts


def test_policies_show_each_item_once_and_rank_as_they_should() -> None:
    world = make_world()
    policies: list[PolicyFn] = [random_policy(0), popularity_policy, oracle_slate]
    for policy in policies:
        batch = SessionBatch(world, np.random.default_rng(0))
        batch.reset(np.arange(7))
        for _ in range(world.config.max_turn):
            batch.show(policy(batch))
        shown = [row[row >= 0] for row in batch.shown.reshape(7, -1)]
        assert all(len(set(row)) == len(row) for row in shown)
    batch.reset(np.arange(7))
    best = np.argsort(-world.users.affinity, axis=1)[:, :3]
    np.testing.assert_array_equal(oracle_slate(batch), best)
    assert popularity_policy(batch)[0].tolist() == np.argsort(-world.users.affinity.mean(axis=0))[:3].tolist()


def test_an_exhausted_catalogue_leaves_places_empty() -> None:
    world = make_world(EnvironmentConfig(slate_size=3, leave_quantile=0.0), n_items=4)
    batch = SessionBatch(world, np.random.default_rng(0))
    batch.reset(np.array([0]))
    batch.show(popularity_policy(batch))
    assert sorted(popularity_policy(batch)[0].tolist())[:2] == [-1, -1]


def test_oracle_beats_popularity_beats_random_and_never_bores() -> None:
    world = make_world(EnvironmentConfig(slate_size=3, leave_quantile=0.001), n_items=200)
    best, popular, chance = (
        rollout(world, policy, seed=0, n_sessions=600) for policy in (oracle_slate, popularity_policy, random_policy(0))
    )
    assert best.reward.mean() > popular.reward.mean() > chance.reward.mean()
    assert not best.bored.any()
    assert chance.coverage == 1.0 > popular.coverage
    assert 0 < chance.diversity < 2


def test_the_population_oracle_believes_what_bayes_says() -> None:
    """Expected: for every user the product of the true probabilities of all that the session answered."""
    world = make_world(EnvironmentConfig(slate_size=3, leave_quantile=0.01, satiation=1.5), n_items=25)
    oracle, batch = PopulationOracle(world), SessionBatch(world, np.random.default_rng(1))
    users = np.array([2, 5, 0, 5, 6])
    for _ in range(2):  # the second time with nothing left of the first
        batch.reset(users)
        as_users = [SessionBatch(world, np.random.default_rng(0)) for _ in range(world.n_users)]
        for user, alike in enumerate(as_users):
            alike.reset(np.full(len(users), user))
        expected = np.zeros((len(users), world.n_users))
        for _ in range(4):
            slates = oracle(batch)
            belief = np.exp(oracle.log_belief - oracle.log_belief.max(axis=1, keepdims=True))
            wanted = np.exp(expected - expected.max(axis=1, keepdims=True))
            np.testing.assert_allclose(
                belief / belief.sum(axis=1, keepdims=True), wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-3
            )
            live = np.flatnonzero(~batch.done)
            turn = batch.turn.copy()
            batch.show(slates)
            for user, alike in enumerate(as_users):
                p = alike.probability(slates, np.arange(len(users)))
                answers = batch.responses[np.arange(len(users)), np.minimum(turn, world.config.max_turn - 1)]
                told = np.log(np.where(answers, p, 1 - p)).sum(axis=1)
                expected[live, user] += told[live]
                alike.show(slates)
                alike.left[:] = batch.left  # what bores is the same for all users


def test_the_population_oracle_stands_between_popularity_and_the_oracle() -> None:
    world = make_world(EnvironmentConfig(slate_size=3, leave_quantile=0.001), n_users=40, n_items=200)
    popular, items, stranger, best = (
        rollout(world, policy, seed=0, n_sessions=400).reward.mean()
        for policy in (
            popularity_policy,
            item_oracle_slate,
            PopulationOracle(world),
            oracle_slate,
        )
    )
    assert popular < items < stranger < best


def test_the_same_seed_gives_the_same_rollout() -> None:
    world = make_world()
    one, same, other = (rollout(world, random_policy(0), seed, 300) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.reward, same.reward)
    np.testing.assert_array_equal(one.length, same.length)
    assert (one.coverage, one.diversity) == (same.coverage, same.diversity)
    assert (one.reward != other.reward).any()
    assert one.reward_per_turn == pytest.approx(one.reward.sum() / one.length.sum())


def test_diversity_is_the_mean_over_pairs() -> None:
    vectors = unit(6, 3)
    shown = np.array([[0, 1, 2, -1], [3, -1, -1, -1]])
    expected = np.mean([1 - vectors[i] @ vectors[j] for i, j in ((0, 1), (0, 2), (1, 2))])
    diversity = session_diversity(shown, vectors)
    assert diversity[0] == pytest.approx(expected, rel=1e-5)
    assert math.isnan(diversity[1])
