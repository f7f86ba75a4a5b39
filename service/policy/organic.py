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
import torch
from torch import Tensor

from service.policy.types import EMPTY_SLOT, Batch, Interaction, pack_states

N_OTHERS = 4  # items drawn at random beside a like
USUAL = math.log(1 / N_OTHERS)  # logit of the like among them
TRUST = 0.3  # of an impression's slot


def trust(batch: Batch) -> Tensor:
    """[B, 1] how much of an impression each row counts as."""
    if batch.organic is None:
        return torch.ones(len(batch.discount), 1)
    return torch.where(batch.organic, TRUST, 1.0).unsqueeze(1)


def organic_batch(
    histories: Sequence[Sequence[Interaction]],
    items: Sequence[int],
    n_items: int,
    max_history: int,
    rng: np.random.Generator,
) -> Batch:
    """Each of B likes as a slate of itself and `N_OTHERS` others, in the state `histories` [B] of its user."""
    likes = np.asarray(items, np.int64)[:, np.newaxis]
    others = rng.integers(n_items, size=(len(likes), N_OTHERS))
    others[others == likes] = EMPTY_SLOT
    actions = torch.from_numpy(np.concatenate([likes, others], axis=1))
    rewards = torch.zeros(actions.shape)
    rewards[:, 0] = 1.0
    states = pack_states(histories, max_history)
    return Batch(
        state=states,
        actions=actions,
        rewards=rewards,
        propensities=torch.ones(actions.shape),
        discount=torch.ones(len(likes)),
        next_state=states,
        turn=torch.zeros(len(likes), dtype=torch.int64),
        organic=torch.ones(len(likes), dtype=torch.bool),
    )
