"""DQN of Stable-Baselines3 (Raffin et al. 2021) over single items, starting from nothing.

As in `sb3`: the library's networks and `train()` are used as they are, the session's turns come to it from here, each
slot of a slate is a decision and a transition of its own, and the last layer sees the items' texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from simulator.experiments.methods.sb3 import ItemDecision
from simulator.experiments.seam.agent import Bools, Factory, Floats, Ints, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.item_networks import ItemHead, seeded
from simulator.experiments.seam.options import read_options
from simulator.experiments.seam.slates import best_unseen, following, softened
from simulator.experiments.seam.text_profiles import SessionTexts


@dataclass(frozen=True)
class DQNConfig:
    dim: int = 32
    hidden: int = 64
    learning_rate: float = 5e-4
    gamma: float = 0.9
    epsilon: float = 0.05  # share of slots filled at random, after a linear decrease from 1
    exploration_sessions: int = 1000
    temperature: float = 0.0  # softens the choice, in units of reward
    buffer: int = 50_000
    batch: int = 256
    gradient_steps: int = 6  # after every turn
    tau: float = 0.01


class ItemQ(DQNPolicy):
    """The library's Q network with an `ItemHead`."""

    def __init__(self, *args: Any, texts: Floats, **kwargs: Any) -> None:
        self._item_texts = texts
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        network = super().make_q_net()
        network.q_net[-1] = ItemHead(network.net_arch[-1], torch.from_numpy(self._item_texts))
        return network


class SlotReplay(ReplayBuffer):
    """The library's buffer, filled many at a time and sampled with a generator of its own."""

    def __init__(self, *args: Any, rng: np.random.Generator, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rng = rng

    def extend_rows(self, observations: Floats, after: Floats, items: Ints, rewards: Floats, ended: Bools) -> None:
        """Append m transitions; the oldest make room."""
        rows = (self.pos + np.arange(len(items))) % self.buffer_size
        self.observations[rows, 0], self.next_observations[rows, 0] = observations, after
        self.actions[rows, 0, 0], self.rewards[rows, 0], self.dones[rows, 0] = items, rewards, ended
        self.full |= self.pos + len(items) >= self.buffer_size
        self.pos = (self.pos + len(items)) % self.buffer_size

    def sample(self, batch_size: int, env: object = None) -> ReplayBufferSamples:
        rows = self._rng.integers(self.buffer_size if self.full else self.pos, size=batch_size)
        columns = (
            self.observations[rows, 0],
            self.actions[rows, 0],
            self.next_observations[rows, 0],
            self.dones[rows],
            self.rewards[rows],
        )
        return ReplayBufferSamples(*map(self.to_torch, columns))


class DQNAgent:
    """Q of single items; a slate is the unseen items with the highest Q, and each slot at times a random one.

    The target's maximum runs over all items, seen or not, as the library has it.
    """

    def __init__(self, setting: Setting) -> None:
        self.config = read_options(DQNConfig, setting.options, "sb3_dqn")
        self._k = setting.catalogue.slate_size
        self._rng = np.random.default_rng(setting.seed)
        self._texts = SessionTexts(setting.catalogue, self.config.dim)
        with seeded(setting.seed):
            self.model = DQN(
                ItemQ,
                ItemDecision(self._texts.observation_dim, setting.catalogue.n_items),
                learning_rate=self.config.learning_rate,
                gamma=self.config.gamma,
                buffer_size=self.config.buffer,
                replay_buffer_class=SlotReplay,
                replay_buffer_kwargs={"rng": self._rng, "handle_timeout_termination": False},
                policy_kwargs={"net_arch": [self.config.hidden] * 2, "texts": self._texts.items},
                device="cpu",
            )
        self.model.set_logger(Logger(None, []))
        self._sessions = 0

    def act(self, sessions: Sessions) -> Slates:
        self._observations = self._texts.observations(sessions)
        if not sessions.shown.shape[1]:
            self._sessions += len(sessions.shown)
        with torch.no_grad():
            values = self.model.q_net(torch.from_numpy(self._observations)).numpy()
        best = best_unseen(softened(values, self.config.temperature, self._rng), sessions.seen, self._k)
        others = sessions.seen.copy()
        np.put_along_axis(others, np.maximum(best, 0), True, axis=1)
        chance = best_unseen(self._rng.random(others.shape, np.float32), others, self._k)
        explored = (self._rng.random(best.shape) < self._epsilon()) & (chance >= 0)
        return Slates(np.where(explored, chance, best))

    def _epsilon(self) -> float:
        return max(self.config.epsilon, 1 - self._sessions / self.config.exploration_sessions)

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        session, slot = np.nonzero(slates.items >= 0)
        after = self._texts.observations(following(sessions, slates, outcome))
        replay = self.model.replay_buffer
        assert isinstance(replay, SlotReplay)
        replay.extend_rows(
            self._observations[session],
            after[session],
            slates.items[session, slot],
            outcome.rewards[session, slot],
            outcome.ended[session],
        )
        self.model.train(self.config.gradient_steps, self.config.batch)
        polyak_update(self.model.q_net.parameters(), self.model.q_net_target.parameters(), self.config.tau)

    def diagnostics(self) -> dict[str, float]:
        return {"epsilon": self._epsilon()}


METHODS: Mapping[str, Factory] = {"sb3_dqn": DQNAgent}
