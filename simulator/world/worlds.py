"""The worlds we simulate: how user truth is fitted for each data set, how sessions go, and a cache of the fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from offline.datasets import Dataset
from simulator.errors import SimulatorError
from simulator.world.environment import EnvironmentConfig, World
from simulator.world.kinds import DEFAULT_WORLD, WORLDS, WorldName
from simulator.world.users import Progress, UserModel, UserModelConfig, fit_users

PRESETS: Mapping[str, tuple[UserModelConfig, EnvironmentConfig]] = MappingProxyType(
    {
        "movielens": (UserModelConfig(), EnvironmentConfig()),
        "movielens100k": (UserModelConfig(), EnvironmentConfig()),
        # Only rated cells count; 18.5% is the share of likes among the items that were shown at random.
        "coat": (
            UserModelConfig(feedback="explicit", dim=8, l2=1.5, mean_affinity=0.185),
            EnvironmentConfig(leave_quantile=0.0015),
        ),
        "lfm": (UserModelConfig(), EnvironmentConfig()),
        # A purchase is rare (0.3% of cells) because nobody is shown most products, not because nobody wants them.
        "industry": (
            UserModelConfig(epochs=30, batch_users=128, l2=3.0, mean_affinity=0.02),
            EnvironmentConfig(leave_quantile=0.0015),
        ),
    }
)
"""By `Dataset.name`, in the world of boredom; every other data set gets the defaults."""


def rules_of(dataset_name: str, world: WorldName = DEFAULT_WORLD) -> EnvironmentConfig:
    """Return the rules of sessions in a world with the items and users of a data set."""
    preset = PRESETS[dataset_name][1] if dataset_name in PRESETS else EnvironmentConfig()
    return replace(preset, **WORLDS[world].rules)


def build_world(
    dataset: Dataset,
    *,
    config: EnvironmentConfig | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> World:
    """The world of a data set: its users fitted (or read from the folder `cache`, where the fit is kept) and its rules.

    `config` are the rules, by default those of the default world; `seed` is the fit's.

    Raises:
        SimulatorError: the data set has no interactions, or none that is liked.
    """
    if dataset.interactions is None:
        raise SimulatorError(f"data set {dataset.name!r} has no interactions, so no user can be simulated; add some")
    user_config = PRESETS[dataset.name][0] if dataset.name in PRESETS else UserModelConfig()
    path = cache / f"users-{dataset.name}-{_key(dataset, user_config, seed)}.safetensors" if cache else None
    if path is not None and path.exists():
        users = _kept(path)
    else:
        users = fit_users(dataset.interactions, len(dataset.items), user_config, seed, progress)
        if path is not None:
            users.save(path)
    return World(users, config or rules_of(dataset.name))


@lru_cache(1)
def _kept(path: Path) -> UserModel:
    """The fit that is there, read once for all worlds of a data set."""
    return UserModel.load(path)


def _key(dataset: Dataset, config: UserModelConfig, seed: int) -> str:
    """A hash of all that the fit depends on, so that a stale cache is never taken for the truth."""
    assert dataset.interactions is not None
    digest = hashlib.sha256(json.dumps([asdict(config), seed, len(dataset.items)]).encode())
    for column in astuple(dataset.interactions):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:16]
