"""Slates without replacement, with the exact propensity of every slot.

Adding Gumbel noise to log pi and taking the k largest draws a Plackett-Luce slate (Kool et al. 2019): slot 0 from pi,
slot 1 from pi without the item of slot 0, and so on. So the propensity of slot k is
pi(a_k) / (1 - sum of pi of the slots above).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Probs = npt.NDArray[np.float64]


class Slate(NamedTuple):
    """k' <= k items in slot order."""

    items: npt.NDArray[np.int64]  # [k'] indices
    propensities: Probs  # [k'], each given the slots above it


def sample_slate(probs: Probs, k: int, rng: np.random.Generator) -> Slate:
    """Draw min(k, items with probability above 0) distinct items from `probs` [A], which need not sum to one."""
    assert probs.ndim == 1 and k >= 0
    possible = np.flatnonzero(probs > 0)
    k = min(k, len(possible))
    if k == 0:
        return Slate(np.empty(0, np.int64), np.empty(0))
    mass = probs[possible]
    keys = np.log(mass) + rng.gumbel(size=len(mass))
    chosen = np.argpartition(keys, len(keys) - k)[len(keys) - k :]
    chosen = chosen[np.argsort(-keys[chosen])]
    return Slate(possible[chosen].astype(np.int64), _propensities(mass, chosen))


def slate_propensities(probs: Probs, items: npt.NDArray[np.int64]) -> Probs:
    """Propensity of each slot had `items` [k] been drawn from `probs` [A]: how a target policy sees a logged slate."""
    return _propensities(probs, items)


def _propensities(mass: Probs, chosen: npt.NDArray[np.int64]) -> Probs:
    # Sums of positive numbers only: 1 - sum(above) would cancel when the slots above hold nearly all the mass.
    shown = mass[chosen]
    rest = np.delete(mass, chosen).sum()
    left = rest + np.cumsum(shown[::-1])[::-1]
    return np.asarray(np.divide(shown, left, out=np.zeros_like(shown), where=left > 0))
