"""What likes and dislikes of a category's items do to the probability of its other items, and a verdict in words.

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
_NOISE = 1e-9  # of sums of probabilities

Likes = Literal["rises", "falls back", "dips first", "falls", "no change"]
Dislikes = Literal["falls", "rises", "no change"]


@dataclass(frozen=True)
class Stage:
    """Probability of the other items in one stage, by draw of the items."""

    likes: int  # so many items were liked; below zero, disliked
    draws: list[float]
    mean: float
    spread: float  # standard deviation over draws

    @classmethod
    def of(cls, likes: int, draws: Sequence[float]) -> Stage:
        """With mean and spread of at least two draws."""
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


def sign_of_change(after: Stage, before: Stage) -> int:
    """Compare two stages draw by draw: 1 more, -1 less, 0 a mean difference within its standard error."""
    differences = np.subtract(after.draws, before.draws)
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return 0 if abs(mean) <= max(error, _NOISE) else 1 if mean > 0 else -1


def verdict_of_likes(stages: Sequence[Stage]) -> Likes:
    """Say what happens from no like to the most.

    It rises if the end is above the beginning by more than the standard error of their difference, no stage between is
    below the beginning by more than that, and the end keeps at least half of what was gained on the way.
    """
    start, *between, end = sorted((stage for stage in stages if stage.likes >= 0), key=lambda stage: stage.likes)
    last, signs = sign_of_change(end, start), [sign_of_change(stage, start) for stage in between]
    peak = max((stage.mean - start.mean for stage in between), default=0.0)
    if 1 in signs and (last < 1 or end.mean - start.mean < peak / 2):
        return "falls back"
    if last < 1:
        return "falls" if last < 0 else "no change"
    return "dips first" if -1 in signs else "rises"


def verdict_of_dislikes(stages: Sequence[Stage]) -> Dislikes:
    """Say what three dislikes do."""
    at = {stage.likes: stage for stage in stages}
    words: dict[int, Dislikes] = {-1: "falls", 0: "no change", 1: "rises"}
    return words[sign_of_change(at[DISLIKED], at[0])]


def effect_of(category: Category, stages: Sequence[Stage]) -> Effect:
    """Judge one category's stages."""
    at = {stage.likes: stage for stage in stages}
    return Effect(
        name=category.name,
        parts=list(category.parts),
        items=len(category.item_ids),
        stages=sorted(stages, key=lambda stage: stage.likes),
        likes=verdict_of_likes(stages),
        dislikes=verdict_of_dislikes(stages),
        told_apart=sign_of_change(at[FEW], at[DISLIKED]) > 0,
    )


async def measure(category: Category, probe: Probe, *, most_likes: int, draws: int, seed: int) -> Effect:
    """Ask about one category, `STAGE_PAIRS` requests a draw."""
    asked: dict[int, list[float]] = {}
    for draw in range(draws):
        rng = np.random.default_rng([seed, zlib.crc32(category.name.encode()), draw])
        chosen = tuple(rng.permutation(np.array(category.item_ids, object))[:most_likes])
        few = chosen[:FEW]
        for taste, likes, baseline, other in (
            (Taste(chosen[:1]), 1, STRANGER, 0),
            (Taste(few), FEW, Taste(disliked=few), DISLIKED),
            (Taste(chosen), most_likes, None, 0),
        ):
            ours, theirs = await probe.shares(category, taste, baseline, chosen)
            asked.setdefault(likes, []).append(ours)
            if theirs is not None:
                asked.setdefault(other, []).append(theirs)
    return effect_of(category, [Stage.of(likes, found) for likes, found in asked.items()])
