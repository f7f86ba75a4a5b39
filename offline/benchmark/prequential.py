"""The prequential protocol: each event is ranked first and learned after; nothing is learned before it was ranked.

Events are likes of all users in order of time, without impressions. A user's history is what they liked before, also a
moment before, as a service's sessions know it; what happened at the same second is not known. What a method has learned
grows by blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from offline.benchmark.data import INTERLEAVING_STREAM, Bools, Floats, Ints, Source, ordered
from offline.benchmark.metrics import NextItem
from offline.benchmark.ranker import Learner
from offline.datasets import Interactions

BLOCK = 100
WARM_UP = 0.1  # share of the events that is learned and does not count


class Events(NamedTuple):
    """Likes in order."""

    users: Ints  # [N]
    items: Ints  # [N]
    times: Ints  # [N] what a user did at the same time happened at once


@dataclass(frozen=True)
class Ranked:
    """Metrics of the events ranked after the warm-up."""

    users: Ints  # [n]
    is_cold: Bools  # [n] nothing was known of the user
    metrics: dict[str, Floats]  # name -> [n]


def events_of(interactions: Interactions, source: Source, seed: int) -> Events:
    """All likes by time; where only the order within users is known, users are interleaved at random."""
    assert source.order != "none", "the log does not say what came first"
    rows = ordered(interactions, source, seed, by_user=source.order == "order")
    rows = rows[interactions.liked[rows]]
    if source.order == "order":
        # The users' turns in random order; at each turn the user does what comes next in their log.
        turns = np.random.default_rng([seed, INTERLEAVING_STREAM]).permutation(interactions.user[rows])
        places = np.argsort(turns, kind="stable")  # of each user's turns, user by user
        ordered_rows = np.empty_like(rows)
        ordered_rows[places] = rows
        rows = ordered_rows
    return Events(
        interactions.user[rows].astype(np.int64), interactions.item[rows].astype(np.int64), interactions.time[rows]
    )


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
    measure = NextItem(n_items).measure
    past: dict[int, list[tuple[int, int]]] = {}
    rows: list[dict[str, float]] = []
    cold: list[bool] = []
    n = len(events.users)
    for start in range(0, n, block):
        users, items, times = (column[start : start + block].tolist() for column in events)
        before = [
            _history(past.setdefault(user, []), item, at) for user, item, at in zip(users, items, times, strict=True)
        ]
        scores = learner.rank(before)
        assert np.isfinite(scores).all(), "scores must be numbers"
        for history, item, row in zip(before, items, scores, strict=True):
            candidates = np.ones(n_items, np.bool_)
            candidates[list(history)] = False
            rows.append(measure(row, item, candidates))
            cold.append(not history)
        learner.learn(users, items)
        progress(len(users))
    counted = slice(round(warm_up * n), n)
    metrics = {name: np.array([row[name] for row in rows[counted]]) for name in (rows[0] if rows else ())}
    return Ranked(events.users[counted], np.array(cold[counted], np.bool_), metrics)


def _history(past: list[tuple[int, int]], item: int, at: int) -> tuple[int, ...]:
    """Return the items that a user liked before the time `at`, and add the event itself to their past."""
    history = tuple(earlier for earlier, when in past if when < at)
    past.append((item, at))
    return history
