"""How likely items and categories are in a state, and what a slate there would be. Nothing is logged or remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service import slates
from service.catalogue import Catalogue
from service.live import LivePolicy
from service.policy.adaptive import Arm, Query
from service.slates import Candidates, History, Wish

Probs = npt.NDArray[np.float64]
MAX_CATEGORIES = 1_000


@dataclass(frozen=True)
class Preview:
    """The probabilities [A] of one state, and a slate drawn from them as rows of the catalogue."""

    probs: Probs
    slate: list[int]


def preview(
    live: LivePolicy,
    catalogue: Catalogue,
    chosen: Candidates,
    histories: Sequence[History],
    arm: Arm,
    k: int,
    seed: int | None,
) -> list[Preview]:
    """Ask the policy that serves an arm, for each history."""
    rng = np.random.default_rng(seed)
    queries = [Query(slates.interactions(past, catalogue.index), chosen.available, arm) for past in histories]
    drawn = slates.draw([Wish(live.policy, query, k, rng) for query in queries])
    return [Preview(one.distribution.of_all(len(catalogue)).probs, one.items) for one in drawn]


def by_category(
    catalogue: Catalogue, available: slates.Mask, probs: Sequence[Probs]
) -> list[tuple[str, int, list[float]]]:
    """Sum `probs` (each [A]) by category: (category, number of available items, sums), most items first."""
    kind_of, n_kinds = catalogue.kind_of.array[: len(catalogue)], len(catalogue.kinds)
    counts = np.bincount(kind_of[available], minlength=n_kinds)
    sums = np.stack([np.bincount(kind_of, weights=mass, minlength=n_kinds) for mass in probs])
    found: dict[str, tuple[int, Probs]] = {}
    for kind, n in catalogue.kinds.items():
        if counts[n]:
            for category in set(kind):
                count, total = found.get(category, (0, np.zeros(len(probs))))
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


def total_variation(probs: Probs, others: Probs) -> float:
    """Half the sum of absolute differences of two distributions [A]."""
    return float(np.abs(probs - others).sum() / 2)
