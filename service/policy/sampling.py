"""Slates without replacement, with the exact propensity of every slot.

The smallest of independent exponential times with rates pi is a draw from pi, the k smallest in order a slate: slot 0
from pi, slot 1 from pi without the item of slot 0, and so on (Plackett-Luce; the Gumbel top-k of Kool et al. 2019
without its logarithms). So the propensity of slot k is pi(a_k) / (1 - sum of pi of the slots above).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Probs = npt.NDArray[np.float64]
_UNIT = 2.0**600
RuledOut = Callable[[int], npt.NDArray[np.bool_] | None]
Reweigh = Callable[[Probs], Probs]


class Slate(NamedTuple):
    """k' <= k items in slot order."""

    items: npt.NDArray[np.int64]  # [k'] indices
    propensities: Probs  # [k'], each given the slots above it


def sample_slate(probs: Probs, k: int, rng: np.random.Generator) -> Slate:
    """Draw min(k, items with probability above 0) distinct items from `probs` [A], which need not sum to one."""
    assert probs.ndim == 1 and k >= 0
    k = min(k, int(np.count_nonzero(probs > 0)))
    if k == 0:
        return Slate(np.empty(0, np.int64), np.empty(0))
    times = _times(probs, rng)
    # So long that twice as many draws as there are slots are expected; seldom too few are different items.
    first = np.flatnonzero(times < 2 * k / (float(probs.sum()) * _UNIT))
    if len(first) < k:
        first = np.argpartition(times, k - 1)[:k]
    items = first[np.argsort(times[first])[:k]]
    return Slate(items, _propensities(probs, items))


def sample_slate_where(
    probs: Probs, k: int, rng: np.random.Generator, ruled_out: RuledOut, reweigh: Reweigh | None = None
) -> Slate:
    """As `sample_slate`, but an item in the slate may rule out others: `ruled_out(item)` marks these [A], or is None.

    The arrival times of the items that are still possible say nothing of those above, since exponential times have no
    memory: each slot is a draw from `probs` among what the slots above leave, and its propensity is that one's. With
    `reweigh`, [A] -> [A], each slot is drawn anew from what that makes of what is left.
    """
    times, left = _times(probs, rng), probs.copy()
    items: list[int] = []
    propensities: list[float] = []
    while len(items) < k:
        mass = left
        if reweigh is not None:
            mass = reweigh(left)
            times = _times(mass, rng)
        item = int(times.argmin())
        if not np.isfinite(times[item]):
            break
        propensities.append(float(mass[item] / mass.sum()))
        items.append(item)
        others = ruled_out(item)
        for gone in (item, others) if others is not None else (item,):
            times[gone], left[gone] = np.inf, 0.0
    return Slate(np.array(items, np.int64), np.array(propensities))


def propensities_where(
    probs: Probs, items: npt.NDArray[np.int64], ruled_out: RuledOut, reweigh: Reweigh | None = None
) -> Probs:
    """Propensity of each slot had `items` [k] been drawn by `sample_slate_where`; zero for what was ruled out."""
    left = probs.copy()
    propensities = np.zeros(len(items))
    for slot, item in enumerate(items.tolist()):
        if left[item] > 0:
            mass = left if reweigh is None else reweigh(left)
            propensities[slot] = mass[item] / mass.sum()
        others = ruled_out(item)
        for gone in (item, others) if others is not None else (item,):
            left[gone] = 0.0
    return propensities


class SlateBatch(NamedTuple):
    """B slates of K slots; -1 and propensity 1 where a row has too few possible items."""

    items: npt.NDArray[np.int64]  # [B, K]
    propensities: Probs  # [B, K]


def sample_slates(probs: Probs, k: int, rng: np.random.Generator) -> SlateBatch:
    """`sample_slate` for every row of `probs` [B, A] at once."""
    assert probs.ndim == 2 and 0 < k <= probs.shape[1]
    times = _times(probs, rng)
    first = np.argpartition(times, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(times, first, axis=1), axis=1)
    items = np.take_along_axis(first, order, axis=1)
    shown = np.take_along_axis(probs, items, axis=1)
    # As in `_propensities`: the mass left at a slot is a sum of positive numbers, not a difference.
    rest = probs.copy()
    np.put_along_axis(rest, items, 0.0, axis=1)
    left = rest.sum(axis=1, keepdims=True) + np.cumsum(shown[:, ::-1], axis=1)[:, ::-1]
    possible = shown > 0
    propensities = np.divide(shown, left, out=np.ones_like(shown), where=possible)
    return SlateBatch(np.where(possible, items, -1), propensities)


def _times(rates: Probs, rng: np.random.Generator) -> Probs:
    """Draw each item's arrival time, in units of 2^-600, so that the smallest rates do not overflow; inf at rate 0."""
    times = rng.standard_exponential(rates.shape)
    return np.divide(
        times, np.multiply(rates, _UNIT, dtype=np.float64), out=np.full_like(times, np.inf), where=rates > 0
    )


def slate_propensities(probs: Probs, items: npt.NDArray[np.int64]) -> Probs:
    """Propensity of each slot had `items` [k] been drawn from `probs` [A]: how a target policy sees a logged slate."""
    return _propensities(probs, items)


def _propensities(mass: Probs, chosen: npt.NDArray[np.int64]) -> Probs:
    # Sums of positive numbers only: 1 - sum(above) would cancel when the slots above hold nearly all the mass.
    shown = mass[chosen]
    rest = mass.copy()
    rest[chosen] = 0.0
    left = rest.sum() + np.cumsum(shown[::-1])[::-1]
    return np.asarray(np.divide(shown, left, out=np.zeros_like(shown), where=left > 0))
