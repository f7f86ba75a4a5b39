"""Logged slates as arrays: rows of a catalogue instead of item ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.context import features_of, read_context
from service.policy.logged import LoggedSlate
from service.policy.sampling import Probs
from service.policy.types import EMPTY_SLOT, States, interactions, pack_states


class IndexedLog(NamedTuple):
    """S slates of at most K slots, in a catalogue's rows."""

    states: States  # of S sessions
    shown: npt.NDArray[np.int64]  # [S, K], EMPTY_SLOT where there is no slot, or no row for its item
    filled: npt.NDArray[np.bool_]  # [S, K], whether there is a slot
    rewards: Probs  # [S, K], 0 where there is no slot
    propensities: Probs  # [S, K], 1 where there is no slot
    user: npt.NDArray[np.int64]  # [S], users by number


def index_slates(
    slates: Sequence[LoggedSlate], index: Mapping[str, int], max_history: int, largest_reward: float = 1.0
) -> IndexedLog:
    """Slates in the rows of `index`; every one must have a slot. Of a history, items without a row are left out."""
    users: dict[str, int] = {}
    shape = len(slates), max((len(slate.items) for slate in slates), default=0)
    shown, filled = np.full(shape, EMPTY_SLOT), np.zeros(shape, np.bool_)
    rewards, propensities = np.zeros(shape), np.ones(shape)
    histories, contexts = [], []
    for row, slate in enumerate(slates):
        k = len(slate.items)
        assert k > 0
        shown[row, :k] = [index.get(item, EMPTY_SLOT) for item in slate.items]
        filled[row, :k] = True
        rewards[row, :k], propensities[row, :k] = slate.rewards, slate.propensities
        past = zip(slate.history_items, slate.history_rewards, strict=True)
        histories.append(interactions(past, index, largest_reward))
        contexts.append(features_of(read_context(slate.context) or {}))
    user = np.array([users.setdefault(slate.user, len(users)) for slate in slates], np.int64)
    return IndexedLog(pack_states(histories, max_history, contexts), shown, filled, rewards, propensities, user)
