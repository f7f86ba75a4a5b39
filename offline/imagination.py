"""Imagined users: they respond by the reward model and leave when a slate reads like what they were just shown.

The second half is ours: no language model says that people tire of what is alike, and a policy that never meets boredom
does not learn to vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline.rewards import RewardModel
from service.policy.networks import ItemScorer
from service.policy.replay import Replay
from service.policy.sampling import sample_slate
from service.policy.types import Interaction, Response, Transition, pack_states, session_state

_BATCH = 64


@dataclass(frozen=True)
class ImaginationConfig:
    """How imagined sessions go."""

    sessions: int = 200
    turns: int = 10
    slate_size: int = 5
    boredom: float = 1.0  # chance to leave for each item that copies a recent one
    boredom_power: float = 4.0  # ... which falls with this power of closeness: being of a kind is not being a copy
    shown: int = 10  # latest items shown in vain that the policy sees, and that bore


@dataclass
class _Session:
    history: list[tuple[int, float]] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    left: bool = False

    def state(self, n_shown: int) -> tuple[Interaction, ...]:
        return as_policy_sees(session_state(self.history, self.shown, n_shown))


class Imagined(NamedTuple):
    """What happened."""

    replay: Replay
    reward: float  # positive responses per session
    visited: list[tuple[tuple[int, float], ...]]  # histories that a slate was drawn for, without the empty ones


def as_policy_sees(state: Sequence[tuple[int, float]]) -> tuple[Interaction, ...]:
    """(item, reward) pairs as a policy takes them."""
    return tuple(Interaction(item, Response.of(reward)) for item, reward in state)


def interact(actor: ItemScorer, reward: RewardModel, config: ImaginationConfig, rng: np.random.Generator) -> Imagined:
    """Let the policy serve imagined users, and record every slate as a transition."""
    replay = Replay(config.sessions * config.turns, actor.config.max_history, config.slate_size)
    sessions = [_Session() for _ in range(config.sessions)]
    visited: list[tuple[tuple[int, float], ...]] = []
    for turn in range(config.turns):
        here = [session for session in sessions if not session.left]
        for start in range(0, len(here), _BATCH):
            _turn(here[start : start + _BATCH], actor, reward, config, rng, replay, turn)
        visited += [tuple(session.history) for session in here if session.history]
    return Imagined(replay, float(np.mean([len(session.history) for session in sessions])), visited)


def _turn(
    sessions: Sequence[_Session],
    actor: ItemScorer,
    reward: RewardModel,
    config: ImaginationConfig,
    rng: np.random.Generator,
    replay: Replay,
    turn: int,
) -> None:
    """Show one slate to each session and record what follows."""
    before = [session.state(config.shown) for session in sessions]
    states = pack_states(before, actor.config.max_history)
    with torch.no_grad():
        probs = torch.softmax(actor(states).double(), -1).numpy()
        expected = reward.expected(states).numpy()
    for row, session in enumerate(sessions):
        allowed = probs[row].copy()
        allowed[session.shown] = 0.0
        slate = sample_slate(allowed, config.slate_size, rng)
        stays = staying(reward.text, slate.items, session.shown[-config.shown :], config)
        responses = rng.random(len(slate.items)) < expected[row, slate.items]
        session.shown += slate.items.tolist()
        session.history += [(item, 1.0) for item in slate.items[responses].tolist()]
        session.left = bool(turn + 1 == config.turns or rng.random() >= stays)
        transition = Transition(
            history=before[row],
            actions=tuple(slate.items.tolist()),
            rewards=tuple(expected[row, slate.items].tolist()),  # expectations are less noisy than draws
            propensities=tuple(slate.propensities.tolist()),
            discount=0.0 if session.left else 1.0,
            next_history=session.state(config.shown),
            turn=turn,
        )
        replay.add(transition)


def staying(text: Tensor, slate: npt.NDArray[np.int64], recent: Sequence[int], config: ImaginationConfig) -> float:
    """Probability of staying: product over the slate of 1 - boredom * closeness^power to the nearest recent item.

    `text` [A, d] are unit rows; closeness is their cosine, at least 0.
    """
    if not recent or not len(slate):
        return 1.0
    closeness = (text[slate] @ text[list(recent)].T).amax(1).clamp(0.0, 1.0)
    return float((1.0 - config.boredom * closeness**config.boredom_power).clamp_min(0.0).prod())
