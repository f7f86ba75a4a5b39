"""The protocol of every run: same users and luck for all, agents see sessions only, and what a record says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.experiments.runs.play import Played, play_agent, play_policy
from simulator.experiments.runs.record import curves_of, metrics_of
from simulator.experiments.seam.agent import Outcome, Sessions, Slates
from simulator.world.environment import EnvironmentConfig
from simulator.world.rollout import oracle_slate
from tests.simulator.baseline_examples import make_agent, make_toy_world
from tests.simulator.world_examples import make_world

WORLD = make_toy_world()


class Scripted:
    """Shows items 0, 1, 2, then 3, 4, 5 and so on, spoils all it was given, and keeps what it saw."""

    def __init__(self, scribble: bool = False) -> None:
        self.scribble = scribble
        self.outcomes: list[Outcome] = []
        self.turns: list[int] = []

    def act(self, sessions: Sessions) -> Slates:
        n, turn = sessions.shown.shape[:2]
        self.turns.append(turn)
        items = np.tile(np.arange(3 * turn, 3 * turn + 3), (n, 1))
        if self.scribble:
            sessions.shown[:], sessions.responses[:], sessions.seen[:] = 0, True, True
        return Slates(items)

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def diagnostics(self) -> dict[str, float]:
        return {}


def same(one: Played, other: Played) -> bool:
    return bool(np.array_equal(one.reward, other.reward) and np.array_equal(one.length, other.length))


def test_the_same_seed_brings_the_same_users_with_the_same_luck() -> None:
    first, again, other = (play_agent(WORLD, Scripted(), seed, 300) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


def test_more_sessions_leave_the_first_ones_as_they_are() -> None:
    few, many = (play_agent(WORLD, Scripted(), 1, n) for n in (200, 500))
    np.testing.assert_array_equal(few.reward, many.reward[:200])


def test_an_agent_that_writes_into_what_it_sees_changes_nothing() -> None:
    assert same(play_agent(WORLD, Scripted(), 1, 200), play_agent(WORLD, Scripted(scribble=True), 1, 200))


def test_an_agent_hears_every_response_and_every_end() -> None:
    agent = Scripted()
    played = play_agent(WORLD, agent, 3, 250, concurrent=100)
    assert sum(float(o.rewards.sum()) for o in agent.outcomes) == played.reward.sum()
    assert sum(int(o.ended.sum()) for o in agent.outcomes) == 250
    assert agent.turns[0] == 0 and max(agent.turns) == played.length.max() - 1


def test_nobody_beats_the_oracle() -> None:
    oracle = play_policy(WORLD, oracle_slate, 4, 400)
    for method in ("random", "popularity"):
        assert play_agent(WORLD, make_agent(method, {}), 4, 400).reward.mean() < oracle.reward.mean()


def test_metrics_of_a_scripted_run_equal_sums_by_hand() -> None:
    world = make_world(EnvironmentConfig(slate_size=3, max_turn=2, leave_share=1.0, leave_quantile=1e-6))
    played = play_agent(world, Scripted(), 5, 1200)
    assert (played.length == 2).all() and not played.bored.any()
    metrics = metrics_of(played, world)
    assert metrics["cumulative_reward"] == played.reward.sum()
    assert metrics["reward"] == pytest.approx(played.reward.mean())
    assert metrics["reward_first_1000"] == pytest.approx(played.reward[:1000].mean())
    assert metrics["reward_last_1000"] == pytest.approx(played.reward[200:].mean())
    assert metrics["reward_per_turn"] == pytest.approx(played.reward.sum() / 2400)
    assert metrics["coverage"] == 6 / 60
    assert metrics["effective_coverage_last_1000"] == pytest.approx(6 / 60)
    share = world.popularity[:6] / world.popularity.sum()
    assert metrics["novelty"] == pytest.approx(-np.log2(share).mean(), rel=1e-5)
    vectors = world.users.item_vectors[:6]
    pairs = [1 - vectors[i] @ vectors[j] for i in range(6) for j in range(i)]
    assert metrics["diversity"] == pytest.approx(np.mean(pairs), rel=1e-4)
    curves = curves_of(played)
    assert len(curves["reward"]) == 12 and curves["length"] == [2.0] * 12
    assert curves["reward"][3] == pytest.approx(played.reward[300:400].mean(), abs=1e-4)
    assert all(math.isfinite(value) for value in metrics.values())
