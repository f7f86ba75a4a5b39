"""Linear bandits over item texts and the session so far, with an intercept of each item's own.

The hybrid model of LinUCB (Li et al. 2010, "A contextual-bandit approach to personalized news article recommendation"):

    r = x(s, a).beta + theta_a + noise        beta ~ N(0, v^2 / ridge I), theta_a ~ N(0, v^2 / item_ridge)

Eliminating the A intercepts leaves a system of the size of x. With D_a = n_a + item_ridge, B_a = sum of x and b_a = sum
of r over the impressions of a, and xbar_a = B_a / D_a:

    A_0 = ridge I + sum x x' - sum_a B_a B_a' / D_a         beta = A_0^-1 (sum r x - sum_a B_a b_a / D_a)
    mean(s, a) = (x - xbar_a).beta + b_a / D_a              variance(s, a) = |x - xbar_a|^2_{A_0^-1} + 1 / D_a

`linucb` ranks by mean + width * deviation, `linear_ts` by a joint draw of beta and all theta for each session (Agrawal
& Goyal 2013). Both are exact; a turn's responses are one update of rank n * K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from simulator.experiments.seam.agent import Factory, Floats, Ints, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.options import read_options
from simulator.experiments.seam.slates import best_unseen, left_early, softened
from simulator.experiments.seam.text_profiles import RECENT_TURNS, SessionTexts, recent_items

_NEAREST, _CHUNK = 10, 25  # items looked at one by one; sessions whose features are in memory at once


@dataclass(frozen=True)
class BanditConfig:
    """`width` multiplies the deviation: of the bound in `linucb`, of the draw (v above) in `linear_ts`."""

    dim: int = 24  # of the projected texts
    width: float = 0.3
    ridge: float = 1.0
    item_ridge: float = 5.0
    temperature: float = 0.0  # softens the choice, in units of reward; users tire of slates of one kind
    leave_penalty: float = 1.0  # taken from the reward of each slot of a slate after which the user left early


@dataclass(frozen=True)
class DrawConfig(BanditConfig):
    """A draw explores more than a bound of the same width: concurrent sessions each have their own."""

    width: float = 0.1
    leave_penalty: float = 2.0


class HybridRidge:
    """Sums that determine the posterior of beta and theta, and the posterior."""

    def __init__(self, n_items: int, dim: int, ridge: float, item_ridge: float) -> None:
        self._outer, self._weighted = np.zeros((dim, dim)), np.zeros(dim)  # sum x x', sum r x
        self._by_item, self._rewards = np.zeros((n_items, dim)), np.zeros(n_items)  # B, b
        self._counts = np.full(n_items, item_ridge)  # D
        self._ridge = ridge
        self._solve()

    def update(self, x: Floats, items: Ints, rewards: Floats) -> None:
        """Learn from impressions: features [m, dim], items [m], rewards [m]."""
        assert len(x) == len(items) == len(rewards)
        x = x.astype(np.float64)
        self._outer += x.T @ x
        self._weighted += rewards @ x
        np.add.at(self._by_item, items, x)
        np.add.at(self._rewards, items, rewards)
        np.add.at(self._counts, items, 1)
        self._solve()

    def _solve(self) -> None:
        self.centre = self._by_item / self._counts[:, None]  # xbar, [A, dim]
        self.offset = self._rewards / self._counts  # b / D, [A]
        self.item_deviation = 1 / np.sqrt(self._counts)
        precision = self._outer - self._by_item.T @ self.centre + self._ridge * np.eye(len(self._outer))
        # |x|^2 under A_0^-1 = L L' is |x L|^2, and L z has covariance A_0^-1 for standard normal z.
        self.root = np.linalg.cholesky(np.linalg.inv(precision))
        self.beta = self.root @ (self.root.T @ (self._weighted - self._rewards @ self.centre))


class BanditAgent:
    """Both methods: they differ in how they rank."""

    def __init__(self, kind: Literal["linucb", "linear_ts"], setting: Setting) -> None:
        self.config = read_options(BanditConfig if kind == "linucb" else DrawConfig, setting.options, kind)
        self._kind, self._catalogue = kind, setting.catalogue
        self._rng = np.random.default_rng(setting.seed)
        self._features = PairFeatures(setting, self.config.dim)
        self.model = HybridRidge(
            setting.catalogue.n_items, self._features.dim, self.config.ridge, self.config.item_ridge
        )

    def act(self, sessions: Sessions) -> Slates:
        rank = self._bound if self._kind == "linucb" else self._draw
        n = len(sessions.seen)
        chunks = [slice(start, start + _CHUNK) for start in range(0, n, _CHUNK)]
        parts = [rank(Sessions(sessions.shown[at], sessions.responses[at], sessions.seen[at])) for at in chunks]
        # Before the first response all bounds are equal; without a tie-break everybody would get the same items.
        scores = np.concatenate(parts) + 1e-6 * self._rng.random(sessions.seen.shape, np.float32)
        scores = softened(scores, self.config.temperature, self._rng)
        return Slates(best_unseen(scores, sessions.seen, self._catalogue.slate_size))

    def _bound(self, sessions: Sessions) -> Floats:
        model = self.model
        x = self._features.all_items(sessions) - model.centre.astype(np.float32)
        flat = x.reshape(-1, x.shape[2])
        spread = flat @ model.root.astype(np.float32)
        variance = np.einsum("pd,pd->p", spread, spread).reshape(x.shape[:2]) + model.item_deviation**2
        return np.asarray(x @ model.beta.astype(np.float32) + model.offset + self.config.width * np.sqrt(variance))

    def _draw(self, sessions: Sessions) -> Floats:
        model, n = self.model, len(sessions.seen)
        noise = self._rng.standard_normal((n, len(model.beta)))
        beta = (model.beta + self.config.width * noise @ model.root.T).astype(np.float32)
        x = self._features.all_items(sessions) - model.centre.astype(np.float32)
        own = self.config.width * self._rng.standard_normal(x.shape[:2], np.float32) * model.item_deviation
        return np.asarray((x @ beta[:, :, None])[:, :, 0] + model.offset + own)

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        shown = slates.items >= 0
        x = self._features.some_items(sessions, np.maximum(slates.items, 0))
        left = left_early(sessions, outcome, self._catalogue.max_turn)
        rewards = outcome.rewards - self.config.leave_penalty * left[:, None]
        self.model.update(x[shown], slates.items[shown], rewards[shown])

    def diagnostics(self) -> dict[str, float]:
        return {"beta_norm": float(np.linalg.norm(self.model.beta))}


class PairFeatures:
    """x(s, a): text(a); text(a) * mean liked text; how close a is to what was liked, ignored and shown; the session.

    Closeness is of projected texts: to the mean liked, the last liked, the mean ignored, the mean of the last two
    turns, and to the nearest of the last 10 liked and of the last two turns. Of the session alone: share of likes,
    progress, and 1.
    """

    def __init__(self, setting: Setting, dim: int) -> None:
        self._texts = SessionTexts(setting.catalogue, dim)
        self._max_turn = setting.catalogue.max_turn
        self._cosines = self._texts.items @ self._texts.items.T
        self.dim = 2 * dim + 9

    def all_items(self, sessions: Sessions) -> Floats:
        """[n, A, dim]"""
        return self._of(sessions, None)

    def some_items(self, sessions: Sessions, items: Ints) -> Floats:
        """Compute the features of `items` [n, m]; [n, m, dim]."""
        return self._of(sessions, items)

    def _of(self, sessions: Sessions, items: Ints | None) -> Floats:
        texts, profiles = self._texts.items, self._texts.profiles(sessions)
        vectors = texts[None] if items is None else texts[items]
        n, turn = len(sessions.seen), sessions.shown.shape[1]
        features = np.empty((n, vectors.shape[1], self.dim), np.float32)
        dim = texts.shape[1]
        features[:, :, :dim] = vectors
        features[:, :, dim : 2 * dim] = vectors * profiles.liked[:, None]
        for place, profile in enumerate(profiles, start=2 * dim):
            features[:, :, place] = (vectors @ profile[:, :, None])[:, :, 0]
        lately = np.arange(turn)[:, None] >= turn - RECENT_TURNS
        for place, chosen in ((-5, sessions.responses), (-4, np.broadcast_to(lately, sessions.shown.shape))):
            features[:, :, place] = self._nearest(recent_items(sessions.shown, chosen, _NEAREST), items)
        likes = sessions.responses.sum(axis=(1, 2))
        features[:, :, -3] = (likes / np.maximum((sessions.shown >= 0).sum(axis=(1, 2)), 1))[:, None]
        features[:, :, -2] = turn / self._max_turn
        features[:, :, -1] = 1
        return features

    def _nearest(self, others: Ints, items: Ints | None) -> Floats:
        """Cosine of each item to the nearest of `others` [n, W]; 0 where there are none."""
        cosines = self._cosines[others] if items is None else self._cosines[others[:, :, None], items[:, None, :]]
        is_item = others[:, :, None] >= 0
        nearest = np.where(is_item, cosines, -1).max(axis=1)
        return np.asarray(np.where(is_item.any(axis=1), nearest, 0))


METHODS: Mapping[str, Factory] = {
    "linucb": partial(BanditAgent, "linucb"),
    "linear_ts": partial(BanditAgent, "linear_ts"),
}
