"""Behaviour cloning from a fixed log, and what all methods share that learn from one and then stand still."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.policy.types import States
from simulator.errors import SimulatorError
from simulator.experiments.seam.agent import Agent, Factory, Floats, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.encoding import states_of
from simulator.experiments.seam.item_networks import BagNetwork, FitConfig, fit, seeded
from simulator.experiments.seam.logs import Log, read_log
from simulator.experiments.seam.options import read_options
from simulator.experiments.seam.slates import best_unseen, softened
from simulator.experiments.seam.text_profiles import SessionTexts

HELD_OUT = 0.1  # share of the log's sessions that decides which epoch is kept


class Logged(NamedTuple):
    """m transitions of a log."""

    states: States
    actions: Tensor  # [m, K] item index, -1 where the slot was empty
    rewards: Tensor  # [m, K]
    ended: Tensor  # [m] bool
    next_states: States
    next_seen: Tensor  # [m, A] bool

    def rows(self, rows: Tensor) -> Logged:
        """Some of them."""
        states, actions, rewards, ended, next_states, next_seen = self
        return Logged(
            states.at(rows),
            actions[rows],
            rewards[rows],
            ended[rows],
            next_states.at(rows),
            next_seen[rows],
        )


def transitions(log: Log, n_items: int) -> Logged:
    """All turns of a log, each with the state before and after."""
    parts = []
    for before, shown, responses, last in log.turns(n_items):
        seen = before.seen.copy()
        session, slot = np.nonzero(shown >= 0)
        seen[session, shown[session, slot]] = True
        after = Sessions(
            np.concatenate([before.shown, shown[:, None]], axis=1),
            np.concatenate([before.responses, responses[:, None]], axis=1),
            seen,
        )
        columns = (shown.astype(np.int64), responses.astype(np.float32), last)
        parts.append((states_of(before), *map(torch.from_numpy, columns), states_of(after), torch.from_numpy(seen)))
    states, actions, rewards, ended, next_states, next_seen = zip(*parts, strict=True)
    return Logged(
        _joined(states),
        torch.cat(actions),
        torch.cat(rewards),
        torch.cat(ended),
        _joined(next_states),
        torch.cat(next_seen),
    )


def _joined(parts: Sequence[States]) -> States:
    items, responses, lengths = (torch.cat(column) for column in zip(*(part[:3] for part in parts), strict=True))
    return States(items, responses, lengths)


def log_of(setting: Setting) -> Log:
    """The artefact `log`.

    Raises:
        SimulatorError: there is none, or it cannot be read.
    """
    if "log" not in setting.artefacts:
        raise SimulatorError("this method learns from a log; the artefact 'log' is missing")
    return read_log(setting.artefacts["log"], setting.catalogue)


class FrozenAgent:
    """Draws slates from fixed scores and never learns.

    `scores` gives [n, A] for sessions; `temperature` softens the choice in their units, 0 takes the best.
    """

    def __init__(
        self, setting: Setting, scores: Callable[[Sessions], Floats], temperature: float, diagnostics: dict[str, float]
    ) -> None:
        self._scores, self._temperature, self._diagnostics = scores, temperature, diagnostics
        self._k, self._rng = setting.catalogue.slate_size, np.random.default_rng(setting.seed)

    def act(self, sessions: Sessions) -> Slates:
        scores = softened(self._scores(sessions), self._temperature, self._rng)
        return Slates(best_unseen(scores, sessions.seen, self._k))

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        """Nothing is learned online."""

    def diagnostics(self) -> dict[str, float]:
        return self._diagnostics


@dataclass(frozen=True)
class CloningConfig:
    dim: int = 64
    dropout: float = 0.2
    epochs: int = 15
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    temperature: float = 0.7


def cloning_loss(logits: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[a] over the items a that were answered positively; [B, A], [B, K], [B, K] -> []."""
    assert actions.shape == rewards.shape and logits.shape[0] == actions.shape[0]
    chosen = torch.log_softmax(logits, 1).gather(1, actions.clamp_min(0))
    weight = rewards * (actions >= 0)
    return -(chosen * weight).sum() / weight.sum().clamp_min(1)


def behaviour_cloning(setting: Setting) -> Agent:
    """The policy most likely to have shown what was answered positively, frozen."""
    config = read_options(CloningConfig, setting.options, "behaviour_cloning")
    rng = np.random.default_rng(setting.seed)
    train, held_out = (transitions(part, setting.catalogue.n_items) for part in log_of(setting).split(HELD_OUT, rng))
    with seeded(setting.seed):
        network = BagNetwork(SessionTexts(setting.catalogue, config.dim).items, config.dim, config.dropout)

        def loss(data: Logged) -> Tensor:
            return cloning_loss(network(data.states), data.actions, data.rewards)

        best = fit(
            network,
            lambda rows: loss(train.rows(rows)),
            len(train.ended),
            lambda: loss(held_out),
            FitConfig(config.epochs, config.batch, config.learning_rate, config.weight_decay),
            rng,
        )

    return FrozenAgent(setting, scores_by(network), config.temperature, {"held_out_loss": best})


def scores_by(network: torch.nn.Module) -> Callable[[Sessions], Floats]:
    """The scores of a network over states, for `FrozenAgent`."""

    @torch.inference_mode()
    def scores(sessions: Sessions) -> Floats:
        values: Floats = network(states_of(sessions)).numpy()
        return values

    return scores


METHODS: Mapping[str, Factory] = {"behaviour_cloning": behaviour_cloning}
