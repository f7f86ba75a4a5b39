"""Estimate how likely items and categories are to be in a slate, and draw one. Nothing is logged or remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.conditions import CATEGORIES
from service.policy.adaptive import Distribution
from service.store.catalogue import Catalogue
from service.store.events import Mask

Probs = npt.NDArray[np.float64]
MAX_CATEGORIES = 1_000
_N_SLATES = 40  # drawn to find what they hold


@dataclass(frozen=True)
class Preview:
    """Probabilities in one state, by catalogue row [A], and a slate drawn from them."""

    probs: Probs  # of the first slot
    in_slate: Probs  # that an item is anywhere in a slate of k
    slate: list[int]  # one that was drawn

    @property
    def shares(self) -> Probs:
        """Expected share of the slots, [A]; sums to one."""
        return self.in_slate / max(float(self.in_slate.sum()), np.finfo(np.float64).tiny)


def preview(distribution: Distribution, n_items: int, k: int, seed: np.random.SeedSequence) -> Preview:
    """Draw slates of `k` from a distribution over `n_items`; the same seed draws alike from similar distributions."""
    mass = distribution.probs
    rates = np.broadcast_to(mass, (_N_SLATES, len(mass)))
    times = np.random.default_rng(seed).standard_exponential(rates.shape)
    times = np.divide(times, rates, out=np.full_like(times, np.inf), where=rates > 0)
    order = np.argsort(times[0])[:k]
    rows = np.arange(n_items) if distribution.rows is None else distribution.rows
    return Preview(
        probs=distribution.of_all(n_items).probs,
        in_slate=np.bincount(rows, inclusion(mass, times, k), n_items).astype(np.float64),
        slate=distribution.items(order[mass[order] > 0]).tolist(),
    )


def inclusion(mass: Probs, times: Probs, k: int) -> Probs:
    """Estimate how likely each item is to be in a slate of `k`, [A], from N races, [N, A], at rates `mass` [A].

    A slate is the first k to arrive (see `policy.sampling`). An item is in it if it arrives before the k-th of the
    others, at time t: with probability 1 - exp(-mass t), of which this is the mean (Rao-Blackwell). Exact for k = 1.
    """
    if k == 1:
        return mass
    if k >= np.count_nonzero(mass):
        return (mass > 0).astype(np.float64)
    arrivals = np.partition(times, (k - 1, k), axis=1)
    kth, following = arrivals[:, k - 1, np.newaxis], arrivals[:, k, np.newaxis]
    return np.asarray(-np.expm1(-mass * np.where(times <= kth, following, kth)).mean(axis=0))


def by_category(catalogue: Catalogue, available: Mask, shares: Sequence[Probs]) -> list[tuple[str, int, list[float]]]:
    """Sum `shares` (each [A]) by category: (category, number of available items, sums), most items first."""
    column = catalogue.columns[CATEGORIES]
    number_of, n_numbers = column.first(len(catalogue)), len(column.values)
    counts = np.bincount(number_of[available], minlength=n_numbers)
    sums = np.stack([np.bincount(number_of, weights=share, minlength=n_numbers) for share in shares])
    found: dict[str, tuple[int, Probs]] = {}
    for n, categories in enumerate(column.values):
        if counts[n] and isinstance(categories, tuple):
            for category in {str(category) for category in categories}:
                count, total = found.get(category, (0, np.zeros(len(shares))))
                found[category] = count + int(counts[n]), total + sums[:, n]
    ranked = sorted(found.items(), key=lambda entry: (-entry[1][0], entry[0]))[:MAX_CATEGORIES]
    return [(category, count, total.tolist()) for category, (count, total) in ranked]


def largest(values: Probs, n: int) -> list[int]:
    """Rows of the `n` largest values above zero, largest first."""
    n = min(n, int(np.count_nonzero(values > 0)))
    if n == 0:
        return []
    best = np.argpartition(values, len(values) - n)[len(values) - n :]
    return [int(row) for row in best[np.argsort(-values[best], kind="stable")]]


def total_variation(shares: Probs, others: Probs) -> float:
    """Half the sum of absolute differences of two distributions [A]."""
    return float(np.abs(shares - others).sum() / 2)
