"""Tastes that drift: what everybody likes swings from the fitted truth to another one and back, session by session.

The angle of session s is psi(s) = pi / 4 * (1 - cos(2 pi * t / period)), where t is s rounded down to a fortieth of the
period: 0 at first, pi / 2 after half a period, 0 again after a whole one. At the angle psi

    x_u(psi) = R(psi) x_u                                          every user's taste, turned in random planes
    b_a(psi) = mean + cos(psi) (b_a - mean) + sin(psi) (b_p(a) - mean)      every item's popularity; p a permutation
    b_u(psi)                       such that the mean probability of each user over all items stays what it was

R turns each of d // 2 planes, spanned by pairs of a random orthonormal basis, by psi. Items stay what they are: so do
their vectors, and what is alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from simulator.world.likeness import Indices
from simulator.world.users import Floats, UserModel, sigmoid

STEPS = 40  # of a period, in each of which the truth stands still
_KEPT = 4  # whole populations: a batch of sessions lies in a few steps
_NEWTON = 5


class Drift:
    """The truth of any session; the same seed gives the same drift."""

    def __init__(self, users: UserModel, period: int, seed: int = 0) -> None:
        assert period > 0
        rng = np.random.default_rng([seed, 40])
        n_items, dim = users.item_factors.shape
        self._users, self._period, self._step = users, period, max(1, period // STEPS)
        self._basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        self._other_bias = users.item_bias[rng.permutation(n_items)]
        self._means = users.affinity.mean(axis=1)
        self._populations: Callable[[int], UserModel] = lru_cache(_KEPT)(partial(self._of, np.arange(len(self._means))))

    def steps(self, sessions: Indices) -> Indices:
        """The step that each session is in, by its first session: sessions of one step have one truth."""
        return np.asarray(sessions // self._step * self._step)

    def angle(self, step: int) -> float:
        """Radians, from 0 (the fitted truth) to pi / 2 (the other one)."""
        return math.pi / 4 * (1.0 - math.cos(2.0 * math.pi * step / self._period))

    def population(self, step: int) -> UserModel:
        """The truth of all users in a step."""
        return self._populations(step)

    def affinity(self, user: int, session: int) -> Floats:
        """[A] what this user likes in this session.

        Computed for one user at a time, so that a session does not depend, bit by bit, on those beside it.
        """
        (step,) = self.steps(np.array([session])).tolist()
        affinity: Floats = self._of(np.array([user]), step).affinity[0]
        return affinity

    def _of(self, chosen: Indices, step: int) -> UserModel:
        users, angle = self._users, self.angle(step)
        factors = users.user_factors[chosen] @ rotation(self._basis, angle).T
        mean = users.item_bias.mean()
        own, other = users.item_bias - mean, self._other_bias - mean
        item_bias = np.asarray(mean + math.cos(angle) * own + math.sin(angle) * other, np.float32)
        logits = factors @ users.item_factors.T + item_bias
        user_bias = users.user_bias[chosen]
        for _ in range(_NEWTON):
            p = sigmoid(logits + user_bias[:, None])
            lacking = (self._means[chosen] - p.mean(axis=1)) / (p * (1.0 - p)).mean(axis=1)
            user_bias = user_bias + np.clip(lacking, -2.0, 2.0)
        return replace(users, user_factors=factors, user_bias=np.asarray(user_bias, np.float32), item_bias=item_bias)


def rotation(basis: npt.NDArray[np.float64], angle: float) -> Floats:
    """[d, d] turns each plane of two consecutive columns of `basis` [d, d] by `angle`; an odd last column stays."""
    dim = len(basis)
    turns = np.eye(dim)
    cos, sin = math.cos(angle), math.sin(angle)
    for first in range(0, dim - 1, 2):
        turns[first : first + 2, first : first + 2] = [[cos, -sin], [sin, cos]]
    return np.asarray(basis @ turns @ basis.T, np.float32)
