"""A small made-up world for tests: seeded users and items in three dimensions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.world.environment import EnvironmentConfig, World
from simulator.world.kinds import WORLDS, WorldName
from simulator.world.users import Floats, UserModel, UserModelConfig


def make_world(config: EnvironmentConfig | None = None, n_users: int = 7, n_items: int = 60, seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    users = UserModel(
        user_factors=rng.normal(size=(n_users, 3)).astype(np.float32),
        user_bias=np.full(n_users, -1.0, np.float32),
        item_factors=rng.normal(size=(n_items, 3)).astype(np.float32),
        item_bias=rng.normal(size=n_items).astype(np.float32),
        auc=1.0,
        config=UserModelConfig(),
    )
    return World(users, config or EnvironmentConfig(slate_size=3, leave_quantile=0.01))


def world_of(name: WorldName, n_users: int = 40, n_items: int = 200, **changes: object) -> World:
    rules = replace(EnvironmentConfig(slate_size=3, leave_quantile=0.001), **WORLDS[name].rules)
    return make_world(replace(rules, **changes), n_users, n_items)  # type: ignore[arg-type]


def unit(*shape: int, seed: int = 0) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)
