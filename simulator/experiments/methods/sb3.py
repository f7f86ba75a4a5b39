"""A2C and PPO of Stable-Baselines3 (Raffin et al. 2021), starting from nothing.

The library wants to drive its environment; here a session's turns come to it instead. Its networks, returns and
`train()` are used as they are; this file collects the transitions.

- Observation: the session in terms of its items' texts (`SessionTexts.observations`).
- Action: one item. A slate is K decisions in the same state, each a transition with its own reward: a joint action
  (MultiDiscrete) would hear only the slate's sum and learn more slowly.
- Masks: a slate is drawn slot by slot without replacement from the unseen items, so an item that would earn nothing
  gives its place to the next draw. Log-probabilities are those of the policy before masking.
- The last layer sees the items' texts, too (`ItemHead`): with a weight vector per item alone, nothing learned of one
  item would tell about another.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples, Schedule

from simulator.experiments.seam.agent import Bools, Factory, Floats, Ints, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.item_networks import ItemHead, seeded
from simulator.experiments.seam.options import read_options
from simulator.experiments.seam.slates import best_unseen, following, softened
from simulator.experiments.seam.text_profiles import SessionTexts


@dataclass(frozen=True)
class A2CConfig:
    dim: int = 32  # of the projected texts
    hidden: int = 64
    learning_rate: float = 2e-3
    gamma: float = 0.9
    gae_lambda: float = 0.95
    entropy: float = 0.0003
    n_steps: int = 1  # turns between updates
    normalize_advantage: bool = False


@dataclass(frozen=True)
class PPOConfig:
    dim: int = 32
    hidden: int = 64
    learning_rate: float = 1e-3
    gamma: float = 0.9
    gae_lambda: float = 0.95
    entropy: float = 0.003
    n_steps: int = 10
    epochs: int = 4
    batch: int = 500


class ItemActorCritic(ActorCriticPolicy):
    """The library's policy with an `ItemHead` for the actor."""

    def __init__(self, *args: Any, texts: Floats, **kwargs: Any) -> None:
        self._item_texts = texts
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = ItemHead(self.mlp_extractor.latent_dim_pi, torch.from_numpy(self._item_texts))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]


class ItemDecision(gymnasium.Env[Floats, np.int64]):
    """Environment that describes the spaces to the library before it starts; never stepped."""

    def __init__(self, observation_dim: int, n_items: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32)
        self.action_space = spaces.Discrete(n_items)


class _Turn(NamedTuple):
    """One turn of a wave of W sessions; rows that had ended are zero and not live."""

    observations: Floats  # [W, d]
    items: Ints  # [W, K]
    rewards: Floats  # [W, K]
    values: Floats  # [W]
    log_probs: Floats  # [W, K]
    live: Bools  # [W, K] was an item shown?


class SessionRollouts(RolloutBuffer):
    """The library's buffer over sessions of unequal length: each slot is an environment of its own, some end early."""

    def __init__(self, turns: list[_Turn], last_values: Floats, model: OnPolicyAlgorithm, rng: np.random.Generator):
        width, k = turns[0].items.shape
        super().__init__(
            len(turns),
            model.observation_space,
            model.action_space,
            "cpu",
            gae_lambda=model.gae_lambda,
            gamma=model.gamma,
            n_envs=width * k,
        )
        self._rng = rng
        self.live = np.stack([turn.live.reshape(-1) for turn in turns])
        for turn in turns:
            self.add(
                np.repeat(turn.observations, k, axis=0),
                turn.items,
                turn.rewards.reshape(-1),
                ~turn.live.reshape(-1),  # an ended session "starts" again and again: nothing flows back from it
                torch.from_numpy(np.repeat(turn.values, k)),
                torch.from_numpy(turn.log_probs.reshape(-1)),
            )
        self.compute_returns_and_advantage(torch.from_numpy(np.repeat(last_values, k)), np.zeros(width * k))

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Shuffled minibatches of the transitions that took place."""
        rows = self._rng.permutation(np.flatnonzero(self.live))
        wide = [self.observations, self.actions.astype(np.float32)]
        narrow = [self.values, self.log_probs, self.advantages, self.returns]
        flat = [column.reshape(self.live.size, -1) for column in wide] + [column.reshape(-1) for column in narrow]
        for start in range(0, len(rows), batch_size or len(rows)):
            chosen = rows[start : start + (batch_size or len(rows))]
            yield RolloutBufferSamples(*(self.to_torch(column[chosen]) for column in flat))


class OnPolicyAgent:
    """A2C or PPO at work: turns of a wave are collected, and every `n_steps` of them `train()` learns from them."""

    def __init__(self, kind: type[A2C] | type[PPO], config: A2CConfig | PPOConfig, setting: Setting) -> None:
        self.config = config
        self._k = setting.catalogue.slate_size
        self._rng = np.random.default_rng(setting.seed)
        self._texts = SessionTexts(setting.catalogue, config.dim)
        own: dict[str, Any] = {}
        if isinstance(config, PPOConfig):
            # `n_steps` sizes a buffer that is never used; any other value than the batch brings a warning.
            own = {"n_epochs": config.epochs, "batch_size": config.batch, "n_steps": config.batch}
        with seeded(setting.seed):
            self.model = kind(
                ItemActorCritic,
                ItemDecision(self._texts.observation_dim, setting.catalogue.n_items),
                learning_rate=config.learning_rate,
                gamma=config.gamma,
                gae_lambda=config.gae_lambda,
                ent_coef=config.entropy,
                normalize_advantage=isinstance(config, PPOConfig) or config.normalize_advantage,
                policy_kwargs={"net_arch": [config.hidden, config.hidden], "texts": self._texts.items},
                device="cpu",
                **own,
            )
        self.model.set_logger(Logger(None, []))
        self._turns: list[_Turn] = []
        self._columns = np.zeros(0, np.int64)  # of the wave, one for each live session
        self._width = 0  # sessions of the wave
        self._updates = 0

    def act(self, sessions: Sessions) -> Slates:
        if not sessions.shown.shape[1]:
            self._width = len(sessions.shown)
            self._columns = np.arange(self._width)
        self._observations = self._texts.observations(sessions)
        with torch.no_grad():
            observed = torch.from_numpy(self._observations)
            policy = self.model.policy
            log_probs = torch.log_softmax(policy.get_distribution(observed).distribution.logits, 1).numpy()  # type: ignore[union-attr]
            self._values = policy.predict_values(observed).numpy()[:, 0]
        items = best_unseen(softened(log_probs, 1.0, self._rng), sessions.seen, self._k)
        self._log_probs = np.take_along_axis(log_probs, np.maximum(items, 0), axis=1)
        return Slates(items)

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        live = slates.items >= 0
        columns = (
            self._observations,
            np.maximum(slates.items, 0),
            outcome.rewards,
            self._values,
            self._log_probs,
            live,
        )
        self._turns.append(_Turn(*(self._widened(column) for column in columns)))
        self._columns = self._columns[~outcome.ended]
        if len(self._turns) == self.config.n_steps or not len(self._columns):
            self._learn(following(sessions, slates, outcome), ~outcome.ended)

    def _widened(self, column: Floats | Ints | Bools) -> Any:
        """From rows of live sessions to rows of the wave."""
        wide = np.zeros((self._width, *column.shape[1:]), column.dtype)
        wide[self._columns] = column
        return wide

    def _learn(self, after: Sessions, live: Bools) -> None:
        last_values = np.zeros(self._width, np.float32)
        if live.any():
            observed = torch.from_numpy(self._texts.observations(after)[live])
            with torch.no_grad():
                last_values[self._columns] = self.model.policy.predict_values(observed).numpy()[:, 0]
        # The last values of sessions that ended are zero, which is what their end is worth.
        self.model.rollout_buffer = SessionRollouts(self._turns, last_values, self.model, self._rng)
        self.model.train()
        self._turns = []
        self._updates += 1

    def diagnostics(self) -> dict[str, float]:
        return {"updates": float(self._updates)}


def _a2c(setting: Setting) -> OnPolicyAgent:
    return OnPolicyAgent(A2C, read_options(A2CConfig, setting.options, "sb3_a2c"), setting)


def _ppo(setting: Setting) -> OnPolicyAgent:
    return OnPolicyAgent(PPO, read_options(PPOConfig, setting.options, "sb3_ppo"), setting)


METHODS: Mapping[str, Factory] = {"sb3_a2c": _a2c, "sb3_ppo": _ppo}
