"""Likes that came by themselves, without an impression: what they teach.

Nobody knows what else the user saw, so a like stands beside a few items drawn at random: which of them would this user
have liked (negative sampling; Mikolov et al. 2013, section 2.2)? Items are drawn uniformly, so that the answer tells
how well an item is liked and by whom. Three things keep such rows from what impressions teach: they have a level of
their own, which says how many of the items were likes, they are no part of when sessions end, and they count less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.policy.types import EMPTY_SLOT, Batch, Interaction, Transition, pack_states

N_OTHERS = 4  # items drawn at random beside a like
USUAL = math.log(1 / N_OTHERS)  # logit of the like among them
TRUST = 0.3  # of an impression's slot
COST = TRUST * (1 + N_OTHERS)  # slots of impressions that a row counts as
_REWARDS = (1.0, *[0.0] * N_OTHERS)


def trust(batch: Batch) -> Tensor:
    """[B, 1] how much of an impression each row counts as."""
    if batch.organic is None:
        return torch.ones(len(batch.discount), 1)
    return torch.where(batch.organic, TRUST, 1.0).unsqueeze(1)


def _slates(likes: npt.NDArray[np.int64], n_items: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """[B, 1 + N_OTHERS] each of B `likes` and others, drawn uniformly; EMPTY_SLOT where the like itself was drawn."""
    others = rng.integers(n_items, size=(len(likes), N_OTHERS))
    others[others == likes[:, np.newaxis]] = EMPTY_SLOT
    return np.concatenate([likes[:, np.newaxis], others], axis=1)


def organic_transition(
    history: tuple[Interaction, ...], item: int, n_items: int, rng: np.random.Generator, owner: int = 0
) -> Transition:
    """A like as a slate of itself and `N_OTHERS` others, in the state `history` of its user."""
    (actions,) = _slates(np.array([item]), n_items, rng).tolist()
    return Transition(
        history=history,
        actions=tuple(actions),
        rewards=_REWARDS,
        propensities=(1.0,) * len(actions),
        discount=1.0,
        next_history=history,
        owner=owner,
        organic=True,
    )


def organic_batch(
    histories: Sequence[Sequence[Interaction]],
    items: Sequence[int],
    n_items: int,
    max_history: int,
    rng: np.random.Generator,
) -> Batch:
    """Make what `organic_transition` makes of each of B likes, in the states `histories` [B] of their users."""
    actions = torch.from_numpy(_slates(np.asarray(items, np.int64), n_items, rng))
    states = pack_states(histories, max_history)
    return Batch(
        state=states,
        actions=actions,
        rewards=torch.tensor(_REWARDS).repeat(len(actions), 1),
        propensities=torch.ones(actions.shape),
        discount=torch.ones(len(actions)),
        next_state=states,
        turn=torch.zeros(len(actions), dtype=torch.int64),
        organic=torch.ones(len(actions), dtype=torch.bool),
    )
