"""The reward model of the direct method and DR: the expected reward of a slot, fitted to the log itself.

    q(s, a, k) = b_k + text(a).(beta + sum_c g_c profile_c(s) + gamma * profile_liked(s)) + u_a

with profile_c the mean text of the session's liked, disliked and ignored items, b_k the mean reward of slot k, a ridge
regression whose penalty is chosen by generalised cross-validation (Golub, Heath and Wahba 1979) for the text, and u_a
the mean residual of item a, shrunk towards zero. It is linear in text(a), so that q of the whole catalogue is one
matrix product. Cross-fitting keeps DR's promise: no slot is predicted by a model that saw its user.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.policy.indexed_log import IndexedLog
from service.policy.profiles import PROFILES
from service.policy.sampling import Probs
from service.policy.types import EMPTY_SLOT

_PENALTIES = 10.0 ** np.arange(-3, 7)
_ITEM_PRIOR = 20.0  # slots that an item must have been shown in before its own record counts half


class RewardModel(NamedTuple):
    """q(s, a, k) for A items and K slots."""

    slot: Probs  # [K], b_k
    text: Probs  # [d], beta
    profile: Probs  # [3], g
    liked: Probs  # [d], gamma
    item: Probs  # [A], u_a and the constant

    def values(self, profiles: Probs, text: Probs) -> Probs:
        """q(s, a, k) - b_k, [B, A], of sessions `profiles` [B, 3, d] and items `text` [A, d]."""
        direction = np.einsum("c,bcd->bd", self.profile, profiles) + self.liked * profiles[:, 0] + self.text
        return np.asarray(direction @ text.T + self.item)


def fit(log: IndexedLog, profiles: Probs, text: Probs, rows: npt.NDArray[np.bool_]) -> RewardModel:
    """Fit to the slates `rows` [S] of the log; `profiles` [S, 3, d] are of all slates, `text` [A, d] of all items."""
    slate, k = np.nonzero(log.filled & (log.shown != EMPTY_SLOT) & rows[:, np.newaxis])
    reward, item = log.rewards[slate, k], log.shown[slate, k]
    overall = float(reward.mean()) if len(reward) else 0.0
    n_slots = log.shown.shape[1]
    counts = np.bincount(k, minlength=n_slots)
    slot = np.where(counts > 0, np.bincount(k, reward, n_slots) / np.maximum(counts, 1), overall)
    x = _features(profiles[slate], text[item])
    y = reward - slot[k]
    centre = x.mean(0) if len(x) else np.zeros(x.shape[1])
    weights = ridge(x - centre, y)
    residual = y - (x - centre) @ weights
    n_items = len(text)
    own = np.bincount(item, residual, n_items) / (np.bincount(item, minlength=n_items) + _ITEM_PRIOR)
    d, c = text.shape[1], len(PROFILES)
    beta, gains, gamma = weights[:d], weights[d : d + c], weights[d + c :]
    return RewardModel(slot, beta, gains, gamma, own - centre @ weights)


def _features(profiles: Probs, text: Probs) -> Probs:
    """[n, 2 d + 3] of n slots: the item's text, its closeness to each profile, and its product with the liked one."""
    return np.concatenate([text, np.einsum("ncd,nd->nc", profiles, text), profiles[:, 0] * text], axis=1)


def ridge(x: Probs, y: Probs) -> Probs:
    """argmin |y - x w|^2 + penalty |w|^2, [F], of centred x [n, F] and y [n]; the penalty has the least GCV score."""
    n = len(x)
    if n == 0:
        return np.zeros(x.shape[1])
    spectrum, basis = np.linalg.eigh(x.T @ x)
    spectrum = np.maximum(spectrum, 0.0)
    aligned = basis.T @ (x.T @ y)
    best, best_score = np.zeros(x.shape[1]), np.inf
    for penalty in _PENALTIES:
        w = aligned / (spectrum + penalty)
        squares = float(y @ y - 2 * w @ aligned + (spectrum * w**2).sum())
        freedom = 1 + float((spectrum / (spectrum + penalty)).sum())  # and one for the constant
        score = max(squares, 0.0) / max(1 - freedom / n, 1e-9) ** 2
        if score < best_score:
            best, best_score = basis @ w, score
    return best


def folds_of(user: npt.NDArray[np.int64], n_folds: int, seed: int) -> npt.NDArray[np.int64]:
    """A fold 0 .. n_folds - 1 for each slate [S], all slates of a user in the same one."""
    n_users = int(user.max()) + 1 if len(user) else 0
    of_user = np.random.default_rng(seed).permutation(n_users) % n_folds
    return np.asarray(of_user[user], np.int64)
