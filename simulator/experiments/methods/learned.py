"""Our learners on live traffic: from scratch, or from a pre-trained policy as iALP, A-iALP_ft or A-iALP_ap.

Given a log, they first learn from it: from its slates, or from its likes alone, as a shop has them that logged no more.
The same classes that serve and learn in production (`ExactPolicy`, `Boltzmann`, `A2C`, `Replay`), driven in batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from service.policy.exact_policy import ExactPolicy
from service.policy.factory import builds_on_pretrained, make_learner
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.organic import organic_batch
from service.policy.replay import Replay
from service.policy.sampling import sample_slates
from service.policy.snapshot_files import load_snapshot
from service.policy.text import TextProjection
from service.policy.types import Batch, Interaction, Response, States
from service.policy.variants import Mixture, ServingConfig, Variant
from simulator.errors import SimulatorError
from simulator.experiments.seam.agent import Agent, Bools, Factory, Floats, Ints, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.encoding import N_RESPONSES, N_SHOWN, states_of
from simulator.experiments.seam.logs import Log, read_log
from simulator.experiments.seam.options import read_options

_CAPACITY = 50_000  # the service's default
_GAMMA = 0.5
_WAVE = 100  # sessions of a log at a time


@dataclass(frozen=True)
class LearnedConfig:
    """Settings of serving and learning; None keeps the network's own."""

    learner: Literal["boltzmann", "a2c"] = "boltzmann"
    variant: Literal["frozen", "ft", "ap"] = "ft"
    mixture: Literal["fixed", "adaptive"] = "adaptive"
    mixture_temperature: float = ServingConfig.temperature
    fixed_weight: float = ServingConfig.fixed_weight
    temperature: float | None = None
    horizon: float | None = None
    curiosity: float | None = None
    optimism: float | None = None
    log: Literal["slates", "likes"] = "slates"  # what is learned of a log, where there is one
    hyper_parameters: Mapping[str, float] = field(default_factory=dict)


class LearnedAgent:
    """A serving policy that learns from every turn."""

    def __init__(self, setting: Setting) -> None:
        config = read_options(LearnedConfig, setting.options, "learned")
        torch.manual_seed(setting.seed)
        pretrained = self._pretrained(setting, config)
        variant = Variant(config.variant)
        learned = pretrained.residual() if builds_on_pretrained(config.learner, variant) else deepcopy(pretrained)
        self._serving = ServingConfig(variant, Mixture(config.mixture), config.fixed_weight, config.mixture_temperature)
        self._pretrained_net = pretrained.requires_grad_(False)
        self._learner, _ = make_learner(
            config.learner,
            variant,
            self._pretrained_net,
            learned.requires_grad_(True),
            learned,
            config.hyper_parameters,
        )
        self._n_items = setting.catalogue.n_items
        self._slate_size = min(setting.catalogue.slate_size, self._n_items)
        self._replay = Replay(_CAPACITY, N_RESPONSES + N_SHOWN, self._slate_size)
        self._rng = np.random.default_rng(setting.seed)
        self._generator = torch.Generator().manual_seed(setting.seed)
        self._states: States | None = None
        self._held: list[Batch] = []
        self._weights: list[float] = []
        if "log" in setting.artefacts:
            if config.learner == "a2c":
                raise SimulatorError("the learner a2c needs propensities, which the log does not have")
            log = read_log(setting.artefacts["log"], setting.catalogue)
            (self._read_slates if config.log == "slates" else self._read_likes)(log)
        self._policy = self._current()

    @staticmethod
    def _pretrained(setting: Setting, config: LearnedConfig) -> ItemScorer:
        """The snapshot's policy, or one that knows nothing but texts."""
        if "prior" in setting.artefacts:
            snapshot = load_snapshot(setting.artefacts["prior"])
            text = snapshot.projection(torch.from_numpy(setting.catalogue.embeddings))
            network = snapshot.network("pretrained", text)
        else:
            sizes = NetworkConfig()
            embeddings = torch.from_numpy(setting.catalogue.embeddings)
            network = ItemScorer(sizes, TextProjection.fit(embeddings, sizes.text_dim)(embeddings))
        chosen = {name: getattr(config, name) for name in ("temperature", "horizon", "curiosity", "optimism")}
        network.config = replace(network.config, **{name: v for name, v in chosen.items() if v is not None})
        return network

    def _current(self) -> ExactPolicy:
        return ExactPolicy(self._pretrained_net, self._learner.actor, self._learner.critic, self._serving)

    def act(self, sessions: Sessions) -> Slates:
        self._states = states_of(sessions)
        batch = self._policy.distributions(self._states, ~sessions.seen)
        self._weights.append(float(batch.weight.mean()))
        slates = sample_slates(batch.probs, self._slate_size, self._rng)
        return Slates(slates.items, slates.propensities)

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        assert self._states is not None and slates.propensities is not None
        if self._serving.variant == Variant.FROZEN:
            return
        self._learn(self._states, sessions, slates.items, outcome.rewards, outcome.ended, slates.propensities)
        self._policy = self._current()

    def _learn(
        self,
        states: States,
        sessions: Sessions,
        items: Ints,
        rewards: Floats,
        ended: Bools,
        propensities: Floats,
    ) -> None:
        """Take in one turn of these sessions: what was shown, and what followed."""
        after = Sessions(
            np.concatenate([sessions.shown, items[:, None]], axis=1),
            np.concatenate([sessions.responses, rewards[:, None] > 0], axis=1),
            sessions.seen,
        )
        batch = Batch(
            state=states,
            actions=torch.from_numpy(items).long(),
            rewards=torch.from_numpy(rewards).float(),
            propensities=torch.from_numpy(propensities).float(),
            discount=torch.from_numpy(np.where(ended, 0.0, _GAMMA)).float(),
            next_state=states_of(after),
            turn=torch.full((len(ended),), sessions.shown.shape[1]),
        )
        self._take(batch)

    def _take(self, batch: Batch) -> None:
        self._replay.extend(batch)
        self._learner.update(self._replay, len(batch.discount), self._generator)

    def _read_slates(self, log: Log) -> None:
        """Learn from all turns. The log has no propensities, and `boltzmann` needs none."""
        for wave in log.waves(_WAVE):
            for before, shown, responses, last in wave.turns(self._n_items):
                self._learn(states_of(before), before, shown, responses.astype(np.float32), last, np.ones(shown.shape))

    def _read_likes(self, log: Log) -> None:
        """Learn from what was liked, in its order, as if it had come without an impression."""
        for wave in log.waves(_WAVE):
            histories: list[list[Interaction]] = []
            items: list[int] = []
            for shown, liked in zip(wave.shown, wave.responses, strict=True):
                likes = shown[liked].tolist()
                past = [Interaction(item, Response.POSITIVE) for item in likes]
                histories += [past[:n] for n in range(len(likes))]
                items += likes
            if items:
                self._take(organic_batch(histories, items, N_RESPONSES + N_SHOWN))

    def diagnostics(self) -> dict[str, float]:
        item, personal = self._learner.actor.prior_gain.tolist()
        weight = float(np.mean(self._weights[-100:]))
        return {"mixture_weight_last": weight, "prior_gain_item": item, "prior_gain_personal": personal}


def _learned(setting: Setting) -> Agent:
    return LearnedAgent(setting)


METHODS: Mapping[str, Factory] = {"learned": _learned}
