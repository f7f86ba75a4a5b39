"""Rules of a business for one slate: items at fixed slots, boosts, and how many of a kind there may be.

Every propensity stays exact: a boost changes the distribution that slots are drawn from, a limit changes what is left
for the slots below, a share for new items changes with what probabilities a slot is drawn from what is left, and what a
rule puts into a slot has propensity 1 and is not learned as a choice of the policy.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.conditions import Condition, comparisons
from service.policy.fast_scorer import Mask
from service.policy.sampling import Probs, Reweigh, Slate, propensities_where, sample_slate_where
from service.serving.new_items import NewItems
from service.store.catalogue import Catalogue
from service.store.properties import Column

_DAY_S = 86_400


def unknown_properties(conditions: Iterable[Condition], catalogue: Catalogue) -> bool:
    """Check whether conditions name a property that no item has."""
    names = {compare.name for condition in conditions for compare in comparisons(condition)}
    return any(name not in catalogue.columns for name in names)


@dataclass(frozen=True)
class Rules:
    """Rules of a request or of its placement."""

    pins: tuple[tuple[int, str], ...] = ()  # (slot, item id)
    boosts: tuple[tuple[Condition, float], ...] = ()  # log odds for the items that fit
    at_most: tuple[tuple[str, int], ...] = ()  # (property or `categories`, items with the same value)
    new_items: tuple[float, float] | None = None  # (least share of each slot, of those added within so many days)

    def unknown_properties(self, catalogue: Catalogue) -> bool:
        """Check whether they name a property that no item has."""
        boosted = unknown_properties([condition for condition, _ in self.boosts], catalogue)
        return boosted or any(name not in catalogue.columns for name, _ in self.at_most)


@dataclass(frozen=True)
class Applied:
    """Rules in terms of a catalogue, for a slate of `k` slots."""

    pinned: Mapping[int, int] = field(default_factory=dict)  # slot: place
    weights: Probs | None = None  # [A] that probabilities are multiplied with
    limits: tuple[tuple[Column, int], ...] = ()
    new: NewItems | None = None

    def weighed(self, probs: Probs, rows: npt.NDArray[np.intp] | None) -> Probs:
        """Boost `probs` [R] of items `rows`, or of all; they sum to one again."""
        if self.weights is None:
            return probs
        mass = probs * (self.weights if rows is None else self.weights[rows])
        total = mass.sum()
        return np.asarray(mass / total if total > 0 else mass)

    def draw(
        self, probs: Probs, rows: npt.NDArray[np.intp] | None, n_items: int, k: int, rng: np.random.Generator
    ) -> tuple[Slate, Probs]:
        """Draw what is not pinned of `k` slots from boosted `probs` [R] of items `rows`, or of all `n_items`; return it
        and the probabilities [R] of the first slot, were there no limits."""
        counting, reweigh = self.counting(rows, n_items), self._reweigh(rows)
        mass = _allowed(probs, counting.full())
        slate = sample_slate_where(mass, max(0, k - len(self.pinned)), rng, counting, reweigh)
        return slate, probs if reweigh is None else reweigh(probs)

    def propensities(self, probs: Probs, places: npt.NDArray[np.int64]) -> Probs:
        """Propensity of each slot had `draw` drawn the items `places` [k] from boosted `probs` of all items."""
        counting = self.counting(None, len(probs))
        return propensities_where(_allowed(probs, counting.full()), places, counting, self._reweigh(None))

    def _reweigh(self, rows: npt.NDArray[np.intp] | None) -> Reweigh | None:
        """How each slot's probabilities [R] of items `rows`, or of all, change, given what is left; None: not."""
        new = self.new
        return None if new is None else lambda mass: new.lifted(mass, rows)

    def counting(self, rows: npt.NDArray[np.intp] | None, n_items: int) -> Counting:
        """Begin to count a slate's items, the pinned ones first, against the limits; the slate is drawn from the items
        `rows` [R], or from all."""
        counting = Counting([_Count(column, most, rows, n_items) for column, most in self.limits], rows)
        for place in self.pinned.values():
            counting.add(place)
        return counting


def _allowed(probs: Probs, full: Mask | None) -> Probs:
    return probs if full is None else np.where(full, 0.0, probs)


class Counting:
    """Items of a slate so far against the limits."""

    def __init__(self, counts: Sequence[_Count], rows: npt.NDArray[np.intp] | None) -> None:
        self._counts, self._rows = counts, rows

    def add(self, place: int) -> None:
        """Count an item."""
        for count in self._counts:
            count.add(place)

    def full(self) -> Mask | None:
        """[R] the items that would be too many; None if there is no limit."""
        return np.logical_or.reduce([count.full() for count in self._counts]) if self._counts else None

    def __call__(self, drawn: int) -> Mask | None:
        """Count the item at `drawn`; what it rules out, as `sample_slate_where` asks."""
        self.add(drawn if self._rows is None else int(self._rows[drawn]))
        return self.full()


class _Count:
    """Counts of a slate's items by the value of a property."""

    def __init__(self, column: Column, most: int, rows: npt.NDArray[np.intp] | None, n_items: int) -> None:
        self._column, self._most = column, most
        self._numbers = column.first(n_items)
        self._own = self._numbers if rows is None else self._numbers[rows]
        self._counts: dict[object, int] = {}
        self._full = np.zeros(len(column.values), np.bool_)

    def add(self, place: int) -> None:
        """Count an item for each of its values."""
        for value in set(self._column.parts(int(self._numbers[place]))):
            key = (isinstance(value, bool), value)
            self._counts[key] = self._counts.get(key, 0) + 1
            if self._counts[key] >= self._most:
                self._full[self._column.holding([value])] = True

    def full(self) -> Mask:
        """[R] the items that would be too many."""
        return np.asarray(self._full[self._own])


def apply(
    rules: Rules, catalogue: Catalogue, available: Mask, excluded: Container[str], k: int, now_s: float
) -> Applied:
    """Find the rules' items in a catalogue at a time. A pin is left out if its item is unknown, not `available` [A] by
    itself or excluded, or if its slot is beyond `k`; of two for a slot, or of an item, the first counts."""
    pinned: dict[int, int] = {}
    for slot, item in rules.pins:
        place = catalogue.index.get(item, len(catalogue))
        shown = place < len(catalogue) and bool(available[place]) and item not in excluded
        if slot < k and slot not in pinned and shown and place not in pinned.values():
            pinned[slot] = place
    weights: Probs | None = None
    if rules.boosts:
        added = np.zeros(len(catalogue))
        for condition, by in rules.boosts:
            added[catalogue.fits(condition)] += by
        weights = np.exp(added - added.max(initial=0.0))
    limits = tuple((catalogue.columns[name], most) for name, most in rules.at_most)
    new = None
    if rules.new_items is not None:
        share, days = rules.new_items
        new = NewItems(share, catalogue.first_since(now_s - days * _DAY_S))
    return Applied(pinned, weights, limits, new)
