"""The bridge to Stable-Baselines3: transitions arrive whole, and nothing of sessions that were over."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.experiments.methods.sb3 import OnPolicyAgent, SessionRollouts, _Turn
from simulator.experiments.methods.sb3_dqn import DQNAgent, SlotReplay
from simulator.experiments.seam.agent import Outcome, Sessions, Slates
from tests.simulator.baseline_examples import make_agent

EMPTY = Sessions(np.zeros((2, 0, 3), np.int64), np.zeros((2, 0, 3), np.bool_), np.zeros((2, 60), np.bool_))


def _agent() -> OnPolicyAgent:
    agent = make_agent("sb3_ppo", {"dim": 3, "gamma": 0.5, "gae_lambda": 1.0})
    assert isinstance(agent, OnPolicyAgent)
    return agent


def _turn(items: list[list[int]], rewards: list[list[float]], live: list[list[bool]]) -> _Turn:
    n = len(items)
    return _Turn(
        np.arange(n * 15, dtype=np.float32).reshape(n, 15),
        np.array(items),
        np.array(rewards, np.float32),
        np.full(n, 0.25, np.float32),
        np.full((n, 1), -1.0, np.float32),
        np.array(live),
    )


def test_returns_end_where_the_session_did() -> None:
    turns = [_turn([[5], [6]], [[1.0], [1.0]], [[True], [True]]), _turn([[7], [0]], [[1.0], [0.0]], [[True], [False]])]
    last_values = np.array([4.0, 0.0], np.float32)
    buffer = SessionRollouts(turns, last_values, _agent().model, np.random.default_rng(0))
    # The first session goes on: 1 + 0.5 (1 + 0.5 * 4). The second ended after its first turn.
    np.testing.assert_allclose(buffer.returns, [[2.5, 1.0], [3.0, buffer.returns[1, 1]]])
    (batch,) = buffer.get()
    order = np.argsort(batch.actions[:, 0].numpy())
    np.testing.assert_array_equal(batch.actions[order, 0], [5, 6, 7])
    np.testing.assert_allclose(batch.returns[order], [2.5, 1.0, 3.0])
    np.testing.assert_array_equal(batch.observations[order, 0], [0, 15, 0])
    assert sorted(len(part.returns) for part in buffer.get(2)) == [1, 2]


def test_a_wave_is_learned_from_when_its_last_session_is_over() -> None:
    agent = _agent()
    first = agent.act(EMPTY)
    agent.observe(EMPTY, first, Outcome(np.zeros((2, 3), np.float32), np.array([True, False])))
    assert not agent.diagnostics()["updates"]
    seen = np.zeros((1, 60), np.bool_)
    seen[0, first.items[1]] = True
    later = Sessions(first.items[[1], None], np.zeros((1, 1, 3), np.bool_), seen)
    second = agent.act(later)
    agent.observe(later, second, Outcome(np.ones((1, 3), np.float32), np.array([True])))
    assert agent.diagnostics()["updates"] == 1
    buffer = agent.model.rollout_buffer
    assert isinstance(buffer, SessionRollouts)
    assert buffer.live.tolist() == [[True] * 6, [False] * 3 + [True] * 3]
    np.testing.assert_array_equal(buffer.rewards[1], [0, 0, 0, 1, 1, 1])
    # What the second session earned later flows back to its first turn; nothing flows back to the first session's.
    assert buffer.returns[0, 3] == pytest.approx(0.5, abs=0.01) and not buffer.returns[0, :3].any()


def test_dqn_keeps_one_transition_a_slot_and_forgets_the_oldest() -> None:
    agent = make_agent("sb3_dqn", {"dim": 3, "buffer": 8})
    assert isinstance(agent, DQNAgent)
    replay = agent.model.replay_buffer
    assert isinstance(replay, SlotReplay)
    for reward in (0.0, 1.0):
        slates = Slates(np.array([[1, 2, 3], [4, 5, -1]]))
        agent.act(EMPTY)
        agent.observe(EMPTY, slates, Outcome(np.full((2, 3), reward, np.float32), np.array([False, True])))
    assert replay.full and replay.pos == 2
    np.testing.assert_array_equal(replay.actions[:, 0, 0], [4, 5, 3, 4, 5, 1, 2, 3])
    np.testing.assert_array_equal(replay.rewards[:, 0], [1, 1, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(replay.dones[:, 0], [1, 1, 0, 1, 1, 0, 0, 0])
    assert replay.sample(5).observations.shape == (5, 15)


def test_dqn_explores_less_and_less() -> None:
    agent = make_agent("sb3_dqn", {"dim": 3, "exploration_sessions": 8, "epsilon": 0.1})
    epsilons = []
    for _ in range(5):
        agent.act(EMPTY)
        epsilons.append(agent.diagnostics()["epsilon"])
    np.testing.assert_allclose(epsilons, [0.75, 0.5, 0.25, 0.1, 0.1])
