"""Methods without a model: chance, what everybody likes, and what reads like the items liked so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulator.experiments.seam.agent import Factory, Floats, Outcome, Sessions, Setting, Slates
from simulator.experiments.seam.options import read_options
from simulator.experiments.seam.slates import best_unseen, left_early, softened
from simulator.experiments.seam.text_profiles import SessionTexts


@dataclass(frozen=True)
class RandomConfig:
    """Nothing to choose."""


class RandomAgent:
    """Uniform over the items not seen in the session."""

    def __init__(self, setting: Setting) -> None:
        read_options(RandomConfig, setting.options, "random")
        self._rng, self._k = np.random.default_rng(setting.seed), setting.catalogue.slate_size

    def act(self, sessions: Sessions) -> Slates:
        noise = self._rng.random(sessions.seen.shape, np.float32)
        return Slates(best_unseen(noise, sessions.seen, self._k))

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class PopularityConfig:
    """`prior_strength`: impressions that an item's rate of the whole catalogue stands for before it was shown."""

    explore: Literal["thompson", "ucb"] = "thompson"
    prior_strength: float = 5.0
    prior_rate: float = 0.1  # of the catalogue, before anything was shown; it weighs as one item's prior
    ucb_width: float = 1.0  # in standard deviations of the rate
    # Users tire of items of one kind and leave, and a list of hits is of one kind. Three remedies:
    power: float = 0.0  # slates are drawn with probability ~ rate^power; 0: no draw, always the highest rates
    variety: float = 6.0  # rates are multiplied by exp(-variety * closeness of the text to the last turns' mean)
    leave_penalty: float = 0.0  # each item of a slate after which the user left early counts as so many more failures
    dim: int = 64  # of the projected texts, for `variety`


class PopularityAgent:
    """Ranking by the rate of positive answers, learned while it serves: a Beta-Bernoulli rate for each item.

    Beta(m * rate, m * (1 - rate)) before the item was shown, where rate is that of all impressions so far and m is
    `prior_strength` (empirical Bayes). `thompson` ranks by a draw from the posterior, anew for every session and turn,
    `ucb` by mean + width * deviation.
    """

    def __init__(self, setting: Setting) -> None:
        self.config = read_options(PopularityConfig, setting.options, "popularity")
        self._rng, self._catalogue = np.random.default_rng(setting.seed), setting.catalogue
        self._texts = SessionTexts(setting.catalogue, self.config.dim)
        self.positives = np.zeros(setting.catalogue.n_items)
        self.impressions = np.zeros(setting.catalogue.n_items)
        self._failures = np.zeros(setting.catalogue.n_items)  # that stand for users who left

    def posterior(self) -> tuple[Floats, Floats]:
        """The two parameters of every item's Beta distribution, [A] each."""
        config = self.config
        rate = (self.positives.sum() + config.prior_strength * config.prior_rate) / (
            self.impressions.sum() + config.prior_strength
        )
        rate = np.clip(rate, 1e-4, 1 - 1e-4)
        alpha = self.positives + config.prior_strength * rate
        beta = self.impressions - self.positives + self._failures + config.prior_strength * (1 - rate)
        return alpha, beta

    def act(self, sessions: Sessions) -> Slates:
        alpha, beta = self.posterior()
        if self.config.explore == "thompson":
            rates: Floats = self._rng.beta(alpha, beta, size=sessions.seen.shape)
        else:
            mean = alpha / (alpha + beta)
            deviation = np.sqrt(mean * (1 - mean) / (alpha + beta + 1))
            rates = np.broadcast_to(mean + self.config.ucb_width * deviation, sessions.seen.shape)
        if self.config.variety > 0:
            closeness = np.maximum(self._texts.profiles(sessions).recent @ self._texts.items.T, 0)
            rates = rates * np.exp(-self.config.variety * closeness)
        if self.config.power > 0:
            rates = softened(np.log(np.maximum(rates, 1e-12)), 1 / self.config.power, self._rng)
        return Slates(best_unseen(rates, sessions.seen, self._catalogue.slate_size))

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        shown = slates.items >= 0
        n_items = len(self.positives)
        self.impressions += np.bincount(slates.items[shown], minlength=n_items)
        self.positives += np.bincount(slates.items[shown], weights=outcome.rewards[shown], minlength=n_items)
        left = left_early(sessions, outcome, self._catalogue.max_turn)
        bored_by = slates.items[left]
        self._failures += self.config.leave_penalty * np.bincount(bored_by[bored_by >= 0], minlength=n_items)

    def diagnostics(self) -> dict[str, float]:
        return {"click_rate": float(self.positives.sum() / max(1.0, self.impressions.sum()))}


@dataclass(frozen=True)
class TextSimilarityConfig:
    """`temperature` softens the choice, in units of cosine; `variety` is the price of closeness to the last turns."""

    dim: int = 64
    temperature: float = 0.05
    variety: float = 0.0


class TextSimilarityAgent:
    """Items whose text is close to what the session liked; at random before anything was."""

    def __init__(self, setting: Setting) -> None:
        self.config = read_options(TextSimilarityConfig, setting.options, "text_similarity")
        self._rng, self._k = np.random.default_rng(setting.seed), setting.catalogue.slate_size
        self._texts = SessionTexts(setting.catalogue, self.config.dim)

    def act(self, sessions: Sessions) -> Slates:
        profiles = self._texts.profiles(sessions)
        taste = profiles.liked - self.config.variety * profiles.recent
        has_likes = np.asarray(sessions.responses.any(axis=(1, 2)))[:, None]
        scores = np.where(has_likes, taste @ self._texts.items.T, 0)
        # A stranger's scores are equal, so any noise makes the choice random.
        noise = self._rng.random(scores.shape, np.float32)
        scores = softened(scores, self.config.temperature, self._rng) + 1e-6 * noise
        return Slates(best_unseen(scores, sessions.seen, self._k))

    def observe(self, sessions: Sessions, slates: Slates, outcome: Outcome) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        return {}


METHODS: Mapping[str, Factory] = {
    "random": RandomAgent,
    "popularity": PopularityAgent,
    "text_similarity": TextSimilarityAgent,
}
