"""Effect of likes and dislikes of a category's items on its other items' share of a slate, and its name.

Per category and draw, ten of its items are chosen at random and shown to nobody. Who likes the first 0, 1, 3 or 10 of
them, or dislikes the first 3, chooses among the same remaining items, so that a difference is the taste's alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulator.personas.catalogue import Category
from simulator.personas.probe import STRANGER, Probe, Taste

FEW = 3  # likes that are compared with as many dislikes
DISLIKED = -FEW  # the stage of `FEW` dislikes
STAGE_PAIRS = 3  # requests a draw, each for a stage and what it is best compared with
_NOTICED = 0.001  # of a slate's slots: the least change that counts, or a tenth of the category's share of all items

Likes = Literal["rises", "falls back", "dips first", "falls", "no change"]
Dislikes = Literal["falls", "rises", "no change", "too rare"]


@dataclass(frozen=True)
class Stage:
    """The other items' expected share of a slate's slots in one stage, by draw of the items."""

    likes: int  # so many items were liked; below zero, disliked
    draws: list[float]
    mean: float
    spread: float  # standard deviation over draws

    @classmethod
    def of(cls, likes: int, draws: Sequence[float]) -> Stage:
        """Compute mean and spread of at least two draws."""
        return cls(likes, list(draws), float(np.mean(draws)), float(np.std(draws, ddof=1)))


@dataclass(frozen=True)
class Effect:
    """One category. `told_apart`: it is more likely after likes than after as many dislikes of the same items."""

    name: str
    parts: list[str]
    items: int
    stages: list[Stage]  # by `likes`, ascending
    likes: Likes
    dislikes: Dislikes
    told_apart: bool

    def stage(self, likes: int) -> Stage:
        """The stage after so many likes."""
        return next(stage for stage in self.stages if stage.likes == likes)


def sign_of_change(after: Stage, before: Stage, noticed: float) -> int:
    """Compare two stages draw by draw: 1 more, -1 less, 0 within the standard error of the mean or too little."""
    differences = np.subtract(after.draws, before.draws)
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return 0 if abs(mean) <= max(error, noticed) else 1 if mean > 0 else -1


def classify_likes(stages: Sequence[Stage], noticed: float) -> Likes:
    """Say what happens from no like to the most.

    It rises if the end is above the beginning by more than the standard error of their difference, and by `noticed`;
    no stage between is so far below the beginning; and the end keeps at least half of what was gained on the way.
    """
    start, *between, end = sorted((stage for stage in stages if stage.likes >= 0), key=lambda stage: stage.likes)
    last, *signs = (sign_of_change(stage, start, noticed) for stage in (end, *between))
    peak = max((stage.mean - start.mean for stage in between), default=0.0)
    if 1 in signs and (last < 1 or end.mean - start.mean < peak / 2):
        return "falls back"
    if last < 1:
        return "falls" if last < 0 else "no change"
    return "dips first" if -1 in signs else "rises"


def classify_dislikes(stages: Sequence[Stage], noticed: float) -> Dislikes:
    """Say what three dislikes do; of what a stranger hardly gets, nobody could notice less."""
    at = {stage.likes: stage for stage in stages}
    unchanged: Dislikes = "too rare" if at[0].mean <= noticed else "no change"
    words: dict[int, Dislikes] = {-1: "falls", 0: unchanged, 1: "rises"}
    return words[sign_of_change(at[DISLIKED], at[0], noticed)]


def effect_of(category: Category, stages: Sequence[Stage], n_items: int) -> Effect:
    """Judge one category's stages; the catalogue has `n_items`."""
    noticed = min(_NOTICED, len(category.item_ids) / n_items / 10)
    at = {stage.likes: stage for stage in stages}
    return Effect(
        name=category.name,
        parts=list(category.parts),
        items=len(category.item_ids),
        stages=sorted(stages, key=lambda stage: stage.likes),
        likes=classify_likes(stages, noticed),
        dislikes=classify_dislikes(stages, noticed),
        told_apart=sign_of_change(at[FEW], at[DISLIKED], noticed) > 0,
    )


async def measure(category: Category, probe: Probe, *, n_items: int, most_likes: int, draws: int, seed: int) -> Effect:
    """Ask about one category of a catalogue of `n_items`, `STAGE_PAIRS` requests a draw."""
    shares: dict[int, list[float]] = {}
    for draw in range(draws):
        rng = np.random.default_rng([seed, zlib.crc32(category.name.encode()), draw])
        chosen = tuple(rng.permutation(np.array(category.item_ids, object))[:most_likes])
        few = chosen[:FEW]
        for taste, likes, baseline, other in (
            (Taste(chosen[:1]), 1, STRANGER, 0),
            (Taste(few), FEW, Taste(disliked=few), DISLIKED),
            (Taste(chosen), most_likes, None, 0),
        ):
            ours, theirs = await probe.shares(category, taste, baseline, chosen, draw)
            shares.setdefault(likes, []).append(ours)
            if theirs is not None:
                shares.setdefault(other, []).append(theirs)
    return effect_of(category, [Stage.of(likes, found) for likes, found in shares.items()], n_items)
