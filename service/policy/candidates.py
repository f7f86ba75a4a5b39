"""Candidates: the items of a large catalogue whose probabilities a policy computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from service.policy.fast_scorer import FastScorer, Floats, Hidden, Mask, Places

_FRESH = 16  # one candidate in so many
_FAR = 1e6  # logits


class Part(NamedTuple):
    """A network that takes part in a policy, and B states as it sees them."""

    net: FastScorer
    hidden: Hidden


class NetworkPair(NamedTuple):
    """The pre-trained and the learned network, where they take part, each with B states as it sees them."""

    before: Part | None
    after: Part | None

    def plain(self, rows: Places | None) -> tuple[Floats | None, Floats | None]:
        """f without closeness of items `rows` [B, R] or of all items; the learned one with what it builds on."""
        of_before, of_after = (part.net.plain(part.hidden, rows) if part is not None else None for part in self)
        if of_before is not None and of_after is not None and self.before is not None and self.after is not None:
            net, level = self.before.net, self.before.hidden.level
            self.after.net.with_prior(of_after, net, of_before, level, rows)
        return of_before, of_after

    def of(self, state: int) -> NetworkPair:
        """Return the pair for one of its states."""
        each = slice(state, state + 1)
        return NetworkPair(*(part and Part(part.net, Hidden(*(x[each] for x in part.hidden))) for part in self))

    def best(
        self,
        plain: tuple[Floats | None, Floats | None],
        pool: Places | None,
        absent: Mask,
        n: int,
        fresh: Mask | None = None,
    ) -> Places:
        """Choose for each state the `n` items that come first, as places in `pool` [B, R], in ascending order.

        Ranked are the pool, or all items, by each network's `plain`, and again with its optimism; each of these names
        as many, of those that the ones before it left. Before all of them come, by the learned network's plain score,
        as many of the items that are `fresh` [B, R] as a sixteenth of `n`. Items that are `absent` [B, R] come last.
        """
        views: list[tuple[npt.NDArray[np.floating], npt.NDArray[np.floating] | None]] = []
        for part, scores in zip(self, plain, strict=True):
            if part is not None and scores is not None:
                views += [(scores, None), (scores, part.net.optimism(pool))][: 1 + part.net.is_curious]
        rows = np.empty((len(absent), 0), np.intp)
        reserved = 0
        if fresh is not None and plain[1] is not None:
            reserved = max(1, n // _FRESH)
            views.insert(0, (plain[1].astype(np.float64), np.where(fresh, _FAR, 0.0)))  # float32 has no room for both
        for number, (scores, optimism) in enumerate(views, reserved == 0):
            score = scores.copy() if optimism is None else scores + optimism
            score[absent] = -np.inf
            score[_each(rows), rows] = -np.inf
            n_views = len(views) - (reserved > 0)
            n_more = reserved + (n - reserved) * number // n_views - rows.shape[1]
            rows = np.concatenate([rows, np.argpartition(score, -n_more, axis=1)[:, -n_more:]], axis=1)
        rows.sort(axis=1)
        return rows


def is_repeated(rows: Places) -> Mask:
    """[B, R] whether the same item stands to the left, of `rows` in ascending order: where few items are available."""
    again = np.zeros(rows.shape, np.bool_)
    np.equal(rows[:, 1:], rows[:, :-1], out=again[:, 1:])
    return again


def absent_at(available: Sequence[Mask], rows: Places | None) -> Mask:
    """[B, R] whether each state's items `rows`, in ascending order, are not `available` [A] there, or repeat another.

    Of all items, [B, A], where no rows are named.
    """
    if rows is None:
        return ~np.array(available)
    return ~np.array([mask[own] for mask, own in zip(available, rows, strict=True)]) | is_repeated(rows)


def _each(rows: Places) -> Places:
    """The states' numbers as a column, to stand beside `rows` [B, R]."""
    return np.arange(len(rows))[:, np.newaxis]


_Any = TypeVar("_Any", bound=np.generic)


def take(numbers: npt.NDArray[_Any], rows: Places | None) -> npt.NDArray[_Any]:
    """[B, R] of [B, A]."""
    return numbers if rows is None else numbers[_each(rows), rows]
