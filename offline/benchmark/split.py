"""Cases: what is known of a user, and what is held out. Nothing that is held out, or came after it, is in a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offline.benchmark.data import Ints, Source, UserLog

CASES_STREAM, FOLDS_STREAM, CUT_STREAM = 3, 4, 6
FOLDS = 5

Answer = tuple[int, bool]  # item, liked (or else disliked)


@dataclass(frozen=True)
class Case:
    """One user before the cut and after it."""

    user: int
    likes: tuple[int, ...]  # oldest first: the history
    answers: tuple[Answer, ...]  # the same with dislikes, in order
    held_out: tuple[int, ...]  # liked items in order, the next one first
    before: Ints  # all items answered before the cut, also those that are too old for the history
    answered: Ints  # all items answered at any time


def split_users(logs: Sequence[UserLog], source: Source, seed: int) -> list[Case]:
    """A case for each user with enough likes, in order of the users; at most `source.max_users`, drawn at random."""
    able = np.array([user for user, log in enumerate(logs) if len(log.likes) >= source.min_liked], np.int64)
    if source.max_users is not None and len(able) > source.max_users:
        rng = np.random.default_rng([seed, CASES_STREAM])
        able = np.sort(rng.choice(able, source.max_users, replace=False))
    return [split_user(user, logs[user], source, seed) for user in able.tolist()]


def split_user(user: int, log: UserLog, source: Source, seed: int) -> Case:
    """Cut a log right before one of its likes, which is held out with those that follow it.

    The cut is drawn from all that leave `n_history` likes before it, or as many as can be, and `n_held_out` after it:
    people are met early and late. It parts nothing that happened at once, where that can be.
    """
    likes = np.flatnonzero(log.liked)
    latest = len(likes) - source.n_held_out
    places = np.arange(min(source.n_history, latest), latest + 1)
    apart = places[log.times[likes[places]] > log.times[likes[places - 1]]]
    first = int(np.random.default_rng([seed, CUT_STREAM, user]).choice(apart if len(apart) else places))
    cut = int(likes[first])
    return Case(
        user=user,
        likes=tuple(log.items[likes[max(0, first - source.n_history) : first]].tolist()),
        answers=latest_answers(log, np.arange(cut), source.n_history),
        held_out=tuple(log.items[likes[first : first + source.n_held_out]].tolist()),
        before=log.items[:cut],
        answered=log.items,
    )


def latest_answers(log: UserLog, places: Ints, n_each: int) -> tuple[Answer, ...]:
    """The last `n_each` likes and as many dislikes at these places of the log, in order."""
    parts = [places[kind[places]][-n_each:] for kind in (log.liked, log.disliked)]
    return tuple((int(log.items[i]), bool(log.liked[i])) for i in np.sort(np.concatenate(parts)))


@dataclass(frozen=True)
class UnbiasedCase:
    """One user's own choices, and their ratings of items that were drawn uniformly at random."""

    user: int
    likes: tuple[int, ...]
    answers: tuple[Answer, ...]
    items: Ints  # [n] that were drawn at random
    liked: tuple[bool, ...]  # [n]


def unbiased_cases(logs: Sequence[UserLog], source: Source) -> list[UnbiasedCase]:
    """A case for each user who liked some, but not all, of what was drawn at random."""
    cases = []
    for user, log in enumerate(logs):
        liked = log.liked[log.is_random]
        own = np.flatnonzero(~log.is_random)
        likes = log.items[own[log.liked[own]]]
        if len(likes) >= source.min_liked and liked.any() and not liked.all():
            answers = latest_answers(log, own, len(own))
            items = log.items[log.is_random]
            cases.append(UnbiasedCase(user, tuple(likes.tolist()), answers, items, tuple(liked.tolist())))
    return cases


def without_random(log: UserLog) -> UserLog:
    """Leave out the items shown at random: a deployment's log holds only items that users came to themselves."""
    own = ~log.is_random
    return UserLog(log.items[own], log.liked[own], log.disliked[own], log.is_random[own], log.times[own])


def folds_of_users(n_users: int, seed: int) -> Ints:
    """The fold [n_users] of each user, 0 .. FOLDS - 1, of nearly equal sizes."""
    folds: Ints = np.random.default_rng([seed, FOLDS_STREAM]).permutation(n_users) % FOLDS
    return folds
