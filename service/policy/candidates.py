"""The items of a large catalogue that a policy is asked about in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from service.policy.fast_scorer import FastScorer, Floats, Places


def candidates_of(
    ranked: Sequence[tuple[FastScorer | None, Floats | None]], absent: npt.NDArray[np.bool_], n_candidates: int
) -> Places:
    """For each state the items that come first, [B, n_candidates], in ascending order.

    Ranked are all by f without closeness of each network that takes part, and again with its optimism; each of these
    names as many, of those that the ones before it left. Items that are `absent` come last.
    """
    views: list[tuple[Floats, Floats | None]] = []
    for net, plain in ranked:
        if net is not None and plain is not None:
            views += [(plain, None)] if net.optimism is None else [(plain, None), (plain, net.optimism)]
    rows = np.empty((len(absent), 0), np.intp)
    for n, (plain, optimism) in enumerate(views, 1):
        score = plain.copy() if optimism is None else plain + optimism
        score[absent] = -np.inf
        score[_each(rows), rows] = -np.inf
        wanted = n_candidates * n // len(views) - rows.shape[1]
        rows = np.concatenate([rows, np.argpartition(score, -wanted, axis=1)[:, -wanted:]], axis=1)
    rows.sort(axis=1)
    return rows


def is_repeated(rows: Places) -> npt.NDArray[np.bool_]:
    """[B, R] whether the same item stands to the left, of `rows` in ascending order: where few items are available."""
    again = np.zeros(rows.shape, np.bool_)
    np.equal(rows[:, 1:], rows[:, :-1], out=again[:, 1:])
    return again


def _each(rows: Places) -> Places:
    """The states' numbers as a column, to stand beside `rows` [B, R]."""
    return np.arange(len(rows))[:, np.newaxis]


_Any = TypeVar("_Any", bound=np.generic)


def take(numbers: npt.NDArray[_Any], rows: Places | None) -> npt.NDArray[_Any]:
    """[B, R] of [B, A]."""
    return numbers if rows is None else numbers[_each(rows), rows]
