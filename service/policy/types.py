"""The data that policies and learners exchange: padded tensors, never ids.

Shapes: B states or transitions, L interactions of history, K slots, A items in the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

EMPTY_SLOT = -1
MAX_NAMED = 50  # items that a request may name as the only ones, for a transition to keep them


class Response(IntEnum):
    """Full responses. Others lie between them: a view may be a fifth of a like."""

    NEGATIVE = -1
    IGNORED = 0  # shown, without a response so far
    POSITIVE = 1


Features = tuple[tuple[int, float], ...]  # (row, strength) of what a context says, see `context`


class WithContext(NamedTuple):
    """Features of B contexts, padded."""

    rows: Tensor  # [B, F] int64; 0 where padded
    strengths: Tensor  # [B, F] float32; 0 where padded

    def at(self, rows: Tensor | slice) -> WithContext:
        """Those of the contexts `rows` [n]."""
        return WithContext(self.rows[rows], self.strengths[rows])


class States(NamedTuple):
    """B sessions so far, oldest interaction first, padded on the right."""

    items: Tensor  # [B, L] int64, item index; 0 where padded
    responses: Tensor  # [B, L] float32, from -1 to 1, see Response; 0 where padded
    lengths: Tensor  # [B] int64, 0 .. L
    context: WithContext | None = None  # None where no request said anything

    def at(self, rows: Tensor | slice) -> States:
        """Those of the sessions `rows` [n], or where the mask `rows` [B] is true."""
        context = None if self.context is None else self.context.at(rows)
        return States(self.items[rows], self.responses[rows], self.lengths[rows], context)


class Batch(NamedTuple):
    """B transitions. All slots of a slate share its state and next state; each slot is an action with its reward."""

    state: States
    actions: Tensor  # [B, K] int64, item index or EMPTY_SLOT
    rewards: Tensor  # [B, K] float32
    propensities: Tensor  # [B, K] float32, of the behaviour policy, given the slots above
    discount: Tensor  # [B] float32, gamma, or 0 at the end of a session
    next_state: States
    turn: Tensor  # [B] int64, how many slates of the session came before
    only: Tensor | None = None  # [B, C] int64, item index or EMPTY_SLOT: what could be shown, where a request named it
    organic: Tensor | None = None  # [B] bool: a like that came by itself, beside items drawn at random (`organic`)
    owner: Tensor | None = None  # [B] int64, whose each is; 0 for nobody's


Key = TypeVar("Key")


def session_state(
    history: Sequence[tuple[Key, float]], shown: Sequence[Key], n_shown: int
) -> tuple[tuple[Key, float], ...]:
    """A session as a policy sees it: the responses (item, reward), then the last shown items that had none (reward 0).

    Both are oldest first. What was shown in vain is half of what a session tells: without it a policy cannot vary.
    """
    responded = {item for item, _ in history}
    ignored = list(dict.fromkeys(item for item in reversed(shown) if item not in responded))[::-1]
    return *history, *((item, 0.0) for item in ignored[max(0, len(ignored) - n_shown) :])


class Interaction(NamedTuple):
    """One item of a session and how the user responded, from -1 (a full no) to 1 (a full like); 0 is silence."""

    item: int
    response: float


def response_of(reward: float, largest: float) -> float:
    """A reward as a response: the part that it is of the `largest`, which is a full one, as more than that is."""
    return min(1.0, max(-1.0, reward / largest))


@dataclass(frozen=True)
class Transition:
    """One closed impression or organic like, ready to learn from; tuples are of the slate's length."""

    history: tuple[Interaction, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]
    propensities: tuple[float, ...]
    discount: float
    next_history: tuple[Interaction, ...]
    turn: int = 0
    owner: int = 0  # whose it is: a hash, 0 for nobody's
    only: tuple[int, ...] = ()  # what could be shown; empty: everything but the history, as far as is known
    organic: bool = False  # a like that came by itself, see `organic`
    context: Features = ()  # of the request


def interactions(history: Iterable[tuple[str, float]], index: Mapping[str, int], largest: float) -> list[Interaction]:
    """A history of (item, reward) as policies take it, `largest` being a full response's reward; items without a row in
    `index` are left out."""
    return [Interaction(index[item], response_of(reward, largest)) for item, reward in history if item in index]


def pack_states(
    histories: Sequence[Sequence[Interaction]], max_history: int, contexts: Sequence[Features] = ()
) -> States:
    """Pad histories to one [B, max_history] block; of a longer one the most recent interactions stay. `contexts`: their
    requests' features, B of them or none."""
    items = np.zeros((len(histories), max_history), dtype=np.int64)
    responses = np.zeros(items.shape, np.float32)
    lengths = np.zeros(len(histories), dtype=np.int64)
    for row, history in enumerate(histories):
        recent = history[-max_history:]
        lengths[row] = len(recent)
        if recent:
            items[row, : len(recent)] = [i.item for i in recent]
            responses[row, : len(recent)] = [i.response for i in recent]
    context = None
    if any(contexts):
        context = WithContext(*map(torch.from_numpy, pack_features(contexts)))
    return States(torch.from_numpy(items), torch.from_numpy(responses), torch.from_numpy(lengths), context)


def pack_features(contexts: Sequence[Features]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rows and strengths [B, F] of B contexts, padded with row 0 of strength 0."""
    width = max(map(len, contexts), default=0)
    rows, strengths = np.zeros((len(contexts), width), np.int64), np.zeros((len(contexts), width), np.float32)
    for number, features in enumerate(contexts):
        if features:
            rows[number, : len(features)], strengths[number, : len(features)] = zip(*features, strict=True)
    return rows, strengths


def unpack_states(states: States) -> list[list[Interaction]]:
    """The histories that `pack_states` took, as far as they were kept."""
    return [
        [Interaction(*past) for past in zip(items[:length], responses, strict=False)]
        for items, responses, length in zip(*(part.tolist() for part in states[:3]), strict=True)
    ]


def unpack_contexts(states: States) -> list[Features]:
    """The features that `pack_states` took, without those of no strength."""
    if states.context is None:
        return [()] * len(states.lengths)
    pairs = zip(*(part.tolist() for part in states.context), strict=True)
    return [tuple((row, by) for row, by in zip(rows, strengths, strict=True) if by != 0) for rows, strengths in pairs]
