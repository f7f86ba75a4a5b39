"""The prequential protocol: each event is ranked first and learned after; nothing is learned before it was ranked.

Events are likes of all users in order of time, without impressions. A user's history is what they liked before, also a
moment before, as a service's sessions know it; what happened at the same second is not known. What a method has learned
grows by blocks. Of a warm start, the first half is learned and the second half judges it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from offline.benchmark.data import INTERLEAVING_STREAM, Bools, Floats, Ints, Source, ordered
from offline.benchmark.metrics import NextItem
from offline.benchmark.ranker import Learner, Ranker
from offline.datasets import Interactions

BLOCK = 100
WARM_UP = 0.1  # share of the events that is learned and does not count


class Events(NamedTuple):
    """Likes in order."""

    users: Ints  # [N]
    items: Ints  # [N]
    times: Ints  # [N] what a user did at the same time happened at once

    def part(self, start: int, end: int) -> Events:
        """Events from `start` to before `end`."""
        return Events(*(column[start:end] for column in self))


@dataclass(frozen=True)
class Ranked:
    """Metrics of the events ranked after the warm-up."""

    users: Ints  # [n]
    is_cold: Bools  # [n] nothing was known of the user
    metrics: dict[str, Floats]  # name -> [n]


def events_of(interactions: Interactions, source: Source, seed: int) -> Events:
    """All likes by time; where only the order within users is known, users are interleaved at random, and where nothing
    is known all likes."""
    rows = ordered(interactions, source, seed, by_user=source.order == "order")
    rows = rows[interactions.liked[rows]]
    if source.order == "order":
        # The users' turns in random order; at each turn the user does what comes next in their log.
        turns = np.random.default_rng([seed, INTERLEAVING_STREAM]).permutation(interactions.user[rows])
        places = np.argsort(turns, kind="stable")  # of each user's turns, user by user
        ordered_rows = np.empty_like(rows)
        ordered_rows[places] = rows
        rows = ordered_rows
    times = np.arange(len(rows)) if source.order == "none" else interactions.time[rows]
    return Events(interactions.user[rows].astype(np.int64), interactions.item[rows].astype(np.int64), times)


def evaluate(
    learner: Learner,
    events: Events,
    n_items: int,
    *,
    block: int = BLOCK,
    warm_up: float = WARM_UP,
    progress: Callable[[int], None] = lambda n: None,
) -> Ranked:
    """Rank, then learn, block by block. An item that the user has liked already is no candidate."""
    ranking = _Ranking(n_items)
    n = len(events.users)
    for start in range(0, n, block):
        part = events.part(start, start + block)
        ranking.add(learner, part)
        learner.learn(part.users.tolist(), part.items.tolist())
        progress(len(part.users))
    return ranking.result(events, round(warm_up * n))


def evaluate_warm_start(fit: Callable[[Events], Ranker], events: Events, n_items: int) -> Ranked:
    """Rank the second half of the events by what was made of the first half, which learns nothing more: a user's
    history grows, as a service's sessions do."""
    n, half = len(events.users), len(events.users) // 2
    first = events.part(0, half)
    ranker, ranking = fit(first), _Ranking(n_items)
    ranking.remember(first)
    for start in range(half, n, BLOCK):
        ranking.add(ranker, events.part(start, start + BLOCK))
    return ranking.result(events.part(half, n), 0)


class _Ranking:
    """Metrics of events ranked so far, and what users liked before."""

    def __init__(self, n_items: int) -> None:
        self._n_items, self._measure = n_items, NextItem(n_items).measure
        self._past: dict[int, list[tuple[int, int]]] = {}
        self._rows: list[dict[str, float]] = []
        self._cold: list[bool] = []

    def remember(self, events: Events) -> list[tuple[int, ...]]:
        """Add events to what users liked; returns each one's history."""
        each = zip(events.users.tolist(), events.items.tolist(), events.times.tolist(), strict=True)
        return [_history(self._past.setdefault(user, []), item, at) for user, item, at in each]

    def add(self, ranker: Ranker, events: Events) -> None:
        """Rank a block of events."""
        before = self.remember(events)
        scores = ranker.rank(before)
        assert np.isfinite(scores).all(), "scores must be numbers"
        for history, item, row in zip(before, events.items.tolist(), scores, strict=True):
            candidates = np.ones(self._n_items, np.bool_)
            candidates[list(history)] = False
            self._rows.append(self._measure(row, item, candidates))
            self._cold.append(not history)

    def result(self, events: Events, start: int) -> Ranked:
        """Metrics of the events ranked, from the one at `start` on."""
        rows = self._rows
        metrics = {name: np.array([row[name] for row in rows[start:]]) for name in (rows[0] if rows else ())}
        return Ranked(events.users[start:], np.array(self._cold[start:], np.bool_), metrics)


def _history(past: list[tuple[int, int]], item: int, at: int) -> tuple[int, ...]:
    """Return the items that a user liked before the time `at`, and add the event itself to their past."""
    history = tuple(earlier for earlier, when in past if when < at)
    past.append((item, at))
    return history
