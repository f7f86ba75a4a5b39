"""The target policy and the reward model on every logged slot: the ratios and predictions that the estimators take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from offline.ope.log import Log
from offline.ope.reward_model import RewardModel, fit, folds_of
from offline.ope.target import Target, available
from service.policy.indexed_log import IndexedLog
from service.policy.profiles import session_profiles
from service.policy.sampling import Probs
from service.policy.types import EMPTY_SLOT

_CELLS = 4_000_000  # of one [B, A] block


class Replayed(NamedTuple):
    """S slates of at most K slots; where there is no slot the ratio is 1 and the rest is 0."""

    ratios: Probs  # [S, K], pi / mu of the item shown, each given the slots above it as they were logged
    q_logged: Probs  # [S, K], q of the item shown
    q_target: Probs  # [S, K], sum_a pi(a | s, slots above) q(s, a)


def replay(
    log: Log,
    indexed: IndexedLog,
    target: Target,
    n_folds: int,
    seed: int,
    progress: Callable[[int], None] = lambda n: None,
) -> Replayed:
    """Cross-fit the reward model over `n_folds` groups of users, then look at each slate with the target's eyes."""
    text = target.text.numpy().astype(np.float64)
    profiles = session_profiles(indexed.states, text)
    fold = folds_of(indexed.user, n_folds, seed)
    result = Replayed(*(np.full(indexed.shown.shape, fill) for fill in (1.0, 0.0, 0.0)))
    for number in range(n_folds):
        model = fit(indexed, profiles, text, fold != number)
        for rows in _blocks(np.flatnonzero(fold == number), len(text)):
            states = indexed.states.at(torch.from_numpy(rows))
            probs = target.policy.probabilities(states, available(log, target, rows), target.arm)
            block = slots_of(probs, model.values(profiles[rows], text), indexed.shown[rows], model)
            filled = indexed.filled[rows]
            result.ratios[rows] = np.where(filled, block.ratios / indexed.propensities[rows], 1.0)
            result.q_logged[rows] = np.where(filled, block.q_logged, 0.0)
            result.q_target[rows] = np.where(filled, block.q_target, 0.0)
            progress(len(rows))
    return result


def _blocks(rows: npt.NDArray[np.int64], n_items: int) -> Iterator[npt.NDArray[np.int64]]:
    size = max(1, _CELLS // max(1, n_items))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def slots_of(probs: Probs, values: Probs, shown: npt.NDArray[np.int64], model: RewardModel) -> Replayed:
    """Conditional probability (in place of the ratio) and predictions of each slot.

    `probs` [B, A] of the target, `values` [B, A] = q - b_k, `shown` [B, K] with EMPTY_SLOT. Where the target has
    nothing left to show, probability and predictions are zero.
    """
    left = left_at_slots(probs, shown)
    possible = left > 0
    filled = shown != EMPTY_SLOT
    at = np.where(filled, shown, 0)
    chosen = np.where(filled, np.take_along_axis(probs, at, axis=1), 0.0)
    conditional = np.divide(chosen, left, out=np.zeros_like(left), where=possible)
    mean = np.divide(left_at_slots(probs * values, shown), left, out=np.zeros_like(left), where=possible)
    q_logged = np.where(filled, np.take_along_axis(values, at, axis=1) + model.slot, 0.0)
    return Replayed(conditional, q_logged, np.where(possible, mean + model.slot, 0.0))


def left_at_slots(values: Probs, shown: npt.NDArray[np.int64]) -> Probs:
    """Sum of `values` [B, A] over the items that the slots above do not show, for each slot of `shown` [B, K].

    Adds up what is left instead of taking off what was shown, which would cancel where that is nearly everything.
    """
    filled = shown != EMPTY_SLOT
    own = np.where(filled, np.take_along_axis(values, np.where(filled, shown, 0), axis=1), 0.0)
    rest = values.copy()
    rows, slots = np.nonzero(filled)
    rest[rows, shown[rows, slots]] = 0.0
    return np.asarray(rest.sum(1, keepdims=True) + np.cumsum(own[:, ::-1], axis=1)[:, ::-1])
