"""Gymnasium's interface: its own checker, episodes against sessions, and environments made by id."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from simulator.errors import SimulatorError
from simulator.world.environment import EnvironmentConfig
from simulator.world.kinds import WORLDS
from simulator.world.recommend_env import ENVIRONMENT_IDS, RecommendEnv, register
from tests.simulator.world_examples import make_world


@pytest.mark.parametrize("slate_size", [1, 3])
def test_gymnasium_accepts_the_environment(slate_size: int) -> None:
    check_env(RecommendEnv(make_world(EnvironmentConfig(slate_size=slate_size))), skip_render_check=True)


def test_an_episode_is_the_session() -> None:
    env = RecommendEnv(make_world(EnvironmentConfig(slate_size=2, max_turn=3, leave_quantile=0.0)), history=5)
    observation, info = env.reset(seed=0, options={"user": 4})
    assert info == {"user": 4}
    assert observation["items"].tolist() == [-1] * 5
    total = []
    for turn in range(3):
        observation, reward, terminated, truncated, info = env.step(np.array([2 * turn, 2 * turn + 1]))
        assert reward == info["responses"].sum()
        total += info["responses"].tolist()
    assert observation["items"].tolist() == [1, 2, 3, 4, 5]
    assert observation["responses"].tolist() == total[1:]
    assert (terminated, truncated) == (False, True)
    with pytest.raises(SimulatorError, match="user 7"):
        env.reset(options={"user": 7})


def test_the_same_seed_gives_the_same_episode() -> None:
    def play(seed: int) -> list[float]:
        env = RecommendEnv(make_world())
        env.action_space.seed(0)
        rewards = []
        for episode in range(5):
            _, info = env.reset(seed=seed if episode == 0 else None)
            rewards.append(float(info["user"]))
            ended = False
            while not ended:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                rewards.append(reward)
                ended = terminated or truncated
        return rewards

    assert play(1) == play(1) != play(2)


COAT = {
    "user_item_features/item_features_map.txt": "gender:men\ngender:women",
    "user_item_features/item_features.ascii": "1 0\n0 1\n" * 5,
    "train.ascii": "5 1 5 1 5 1 0 0 0 0\n1 5 1 5 1 5 0 0 0 0\n" * 5,
    "test.ascii": "0 0 0 0 0 0 5 1 5 1\n0 0 0 0 0 0 1 5 1 5\n" * 5,
}


def test_registered_environments_are_made_by_id(tmp_path: Path) -> None:
    for name, text in COAT.items():
        path = tmp_path / "coat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    register(tmp_path)
    register(tmp_path)  # again: no warning, nothing doubled
    assert set(ENVIRONMENT_IDS) <= set(gymnasium.registry)
    env = gymnasium.make("ialp/Coat-v0", slate_size=1, history=4)
    observation, _ = env.reset(seed=0)
    assert observation["items"].shape == (4,)
    env.step(env.action_space.sample())
    assert gymnasium.make("ialp/Coat-v0").action_space == gymnasium.spaces.MultiDiscrete([10] * 5)
    with pytest.raises(SimulatorError, match="slate: unknown"):
        gymnasium.make("ialp/Coat-v0", slate=3)
    calm = gymnasium.make("ialp/Coat-v0", world="calm").unwrapped
    assert isinstance(calm, RecommendEnv) and calm.world.config.hazard == WORLDS["calm"].rules["hazard"]
    with pytest.raises(SimulatorError, match=r"world 'flat': expected one of boredom, calm, more, drift"):
        gymnasium.make("ialp/Coat-v0", world="flat")


def test_where_tastes_drift_an_episode_is_a_later_session() -> None:
    env = RecommendEnv(make_world(EnvironmentConfig(slate_size=2, max_turn=1, hazard=0.0, drift_period=40)))

    def liked_by_episode() -> list[float]:
        earned = []
        for episode in range(40):
            env.reset(seed=1 if episode == 0 else None, options={"user": 4})
            assert env._batch is not None and env._batch.sessions.tolist() == [episode]
            earned.append(float(env._batch.affinity[0, 0]))
            env.step(np.array([0, 1]))
        return earned

    first = liked_by_episode()
    assert len(set(first)) > 15 and first == liked_by_episode()
