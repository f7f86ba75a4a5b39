"""One simulated user behind Gymnasium's interface, and four data sets under Gymnasium ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs import registration

from offline.datasets import Dataset
from offline.sources import FOLDER_SOURCES, movielens
from simulator.errors import SimulatorError
from simulator.world.environment import SessionBatch, World
from simulator.world.kinds import DEFAULT_WORLD, WORLDS, WorldName
from simulator.world.users import UserModel
from simulator.world.worlds import build_world, rules_of

Observation = dict[str, Any]
Action = np.int64 | npt.NDArray[np.int64]

ENVIRONMENT_IDS: Mapping[str, str] = MappingProxyType(
    {
        "ialp/MovieLens-v0": "movielens",
        "ialp/Coat-v0": "coat",
        "ialp/LFM-v0": "lfm",
        "ialp/Industry-v0": "industry",
    }
)
"""Gymnasium id -> data set name."""


class RecommendEnv(gymnasium.Env[Observation, Action]):
    """A session with one user as an episode.

    Action: one item (Discrete) where the slate has one place, else a slate (MultiDiscrete). Observation: the last
    `history` items shown, oldest first and padded with -1 in front, and the responses to them (0 or 1). Reward: the
    number of positive responses. Terminated: the user left; truncated: the last turn is over. Episodes since the last
    seed are numbered: where tastes drift, that is the time.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - the base class has it so

    def __init__(self, world: World, history: int = 20) -> None:
        n_items, k = world.n_items, world.config.slate_size
        self.world = world
        self.action_space = spaces.Discrete(n_items) if k == 1 else spaces.MultiDiscrete([n_items] * k)
        self.observation_space = spaces.Dict(
            {
                "items": spaces.Box(-1, n_items - 1, (history,), np.int64),
                "responses": spaces.Box(0, 1, (history,), np.int8),
            }
        )
        self._history = history
        self._batch: SessionBatch | None = None
        self._episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a session of a random user, or of `options["user"]` (an index)."""
        super().reset(seed=seed)
        if self._batch is None or seed is not None:
            self._batch, self._episode = SessionBatch(self.world, self.np_random), 0
        user = (options or {}).get("user")
        if user is None:
            user = self.np_random.integers(self.world.n_users)
        elif not 0 <= user < self.world.n_users:
            raise SimulatorError(f"user {user}: expected an index from 0 to {self.world.n_users - 1}")
        self._batch.reset(np.array([user], np.int64), first=self._episode)
        self._episode += 1
        return self._observation(self._batch), {"user": int(user)}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Show the item or slate; `info["responses"]` has the response to each place."""
        assert self._batch is not None, "call reset first"
        rewards, done = self._batch.show(np.atleast_2d(action).astype(np.int64))
        left = bool(self._batch.left[0])
        truncated = bool(done[0]) and not left
        return self._observation(self._batch), float(rewards.sum()), left, truncated, {"responses": rewards[0]}

    def _observation(self, batch: SessionBatch) -> Observation:
        shown, responses = batch.shown[0].ravel(), batch.responses[0].ravel()
        # A slate may have had empty places: only what was really shown counts.
        items, answers = shown[shown >= 0][-self._history :], responses[shown >= 0][-self._history :]
        padding = (self._history - len(items), 0)
        return {
            "items": np.pad(items, padding, constant_values=-1),
            "responses": np.pad(answers, padding).astype(np.int8),
        }


def register(data: Path, *, cache: Path | None = None, seed: int = 0) -> None:
    """Make `gymnasium.make("ialp/Coat-v0")` and the others work; data are read and users fitted at the first make.

    `data` holds the folders `coat`, `lastfm-2k` and `amazon-industrial`; MovieLens comes from its package. `make`
    takes `slate_size`, `history` and `world`, a name of `WORLDS`. Registering again replaces what was registered.
    """
    folders = {"coat": data / "coat", "lfm": data / "lastfm-2k", "industry": data / "amazon-industrial"}
    for environment_id, name in ENVIRONMENT_IDS.items():
        load = partial(FOLDER_SOURCES[name], folders[name]) if name in folders else movielens
        registration.registry.pop(environment_id, None)
        gymnasium.register(environment_id, entry_point=_Entry(load, cache, seed))


class _Entry:
    """Builds the environment at `make`, its users only once. (Not a closure: Gymnasium deep-copies its arguments.)"""

    def __init__(self, load: Callable[[], Dataset], cache: Path | None, seed: int) -> None:
        self._load, self._cache, self._seed = load, cache, seed
        self._name = ""
        self._users: UserModel | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Entry:
        return self

    def __call__(
        self, *, slate_size: int | None = None, history: int = 20, world: WorldName = DEFAULT_WORLD, **unknown: Any
    ) -> RecommendEnv:
        if unknown:
            raise SimulatorError(
                f"{', '.join(unknown)}: unknown; these environments take slate_size, history and world"
            )
        if world not in WORLDS:
            raise SimulatorError(f"world {world!r}: expected one of {', '.join(WORLDS)}")
        if self._users is None:
            dataset = self._load()
            self._name, self._users = dataset.name, build_world(dataset, seed=self._seed, cache=self._cache).users
        rules = rules_of(self._name, world)
        if slate_size is not None:
            rules = replace(rules, slate_size=slate_size)
        return RecommendEnv(World(self._users, rules), history)
