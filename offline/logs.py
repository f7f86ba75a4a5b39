"""Logs in order of time: likes that came by themselves, slates that were shown, and what each finds of its user."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from offline.datasets import Interactions
from offline.impressions import Impressions
from service.policy.co_likes import Likes
from service.policy.types import EMPTY_SLOT, Interaction, Response, session_state

SHOWN = 30  # latest items without an answer that a state has: the service's default
LEAST_STRENGTH = 0.05  # of an old like


class Slates(NamedTuple):
    """N slates, oldest first, and which of their items were liked."""

    users: npt.NDArray[np.int64]  # [N]
    items: npt.NDArray[np.int64]  # [N, K], EMPTY_SLOT where a slot has none
    liked: npt.NDArray[np.bool_]  # [N, K]
    propensities: npt.NDArray[np.float64]  # [N, K], 1 where it is not known


class Logs(NamedTuple):
    """Likes and slates, each oldest first, and in which order they come together."""

    likes: Likes
    slates: Slates
    is_slate: npt.NDArray[np.bool_]  # [number of both]

    def part(self, start: int, end: int) -> Logs:
        """Events from `start` to before `end`."""
        counts = np.cumsum(np.r_[False, self.is_slate])
        of_slates = slice(counts[start], counts[end])
        of_likes = slice(start - counts[start], end - counts[end])
        users, items, strengths = self.likes
        whose, shown, liked, chances = self.slates
        return Logs(
            Likes(users[of_likes], items[of_likes], strengths[of_likes]),
            Slates(whose[of_slates], shown[of_slates], liked[of_slates], chances[of_slates]),
            self.is_slate[start:end],
        )


def likes_of(interactions: Interactions, half_life_s: float | None, most: int) -> Likes:
    """Take the likes of a data set, oldest first, the latest `most` of them. One as old as `half_life_s` counts by
    half, the latest of all in full; those that would count next to nothing are left out."""
    return logs_of(interactions, None, half_life_s, most).likes


def logs_of(
    interactions: Interactions, impressions: Impressions | None, half_life_s: float | None, most: int, seed: int = 0
) -> Logs:
    """Take likes and slates of a data set, the latest `most` of each. What a user liked of a slate is learned there,
    and is no like that came by itself.

    A like as old as `half_life_s` counts by half, the latest event of all in full; a slate is one or none, so it is
    there with the probability that is its strength.
    """
    shown = _no_impressions() if impressions is None else impressions
    rows = np.flatnonzero(interactions.liked & ~_is_answer(interactions, shown))
    rows = rows[np.argsort(interactions.time[rows], kind="stable")]
    latest = max(interactions.time[rows].max(initial=_NEVER), shown.time.max(initial=_NEVER))
    strengths = _strengths(interactions.time[rows], latest, half_life_s)
    kept = np.flatnonzero(strengths >= LEAST_STRENGTH)[-most:]
    rows, strengths = rows[kept], strengths[kept]
    order = np.argsort(shown.time, kind="stable")
    drawn = np.random.default_rng(seed).random(len(order))
    slates = order[np.flatnonzero(drawn < _strengths(shown.time[order], latest, half_life_s))[-most:]]
    chances = shown.propensities[slates].astype(np.float64)
    times = np.r_[shown.time[slates], interactions.time[rows]]  # of the same moment a slate comes first
    return Logs(
        Likes(interactions.user[rows].astype(np.int64), interactions.item[rows].astype(np.int64), strengths),
        Slates(
            shown.user[slates].astype(np.int64),
            shown.items[slates].astype(np.int64),
            shown.liked[slates],
            np.where(np.isfinite(chances), chances, 1.0),
        ),
        (np.arange(len(times)) < len(slates))[np.argsort(times, kind="stable")],
    )


_NEVER = np.iinfo(np.int64).min


def _no_impressions() -> Impressions:
    nobody, nothing = np.zeros(0, np.int32), np.zeros((0, 1), np.int32)
    return Impressions(nobody, nobody.astype(np.int64), nothing, nothing.astype(np.bool_), nothing.astype(np.float32))


def _strengths(times: npt.NDArray[np.int64], latest: int, half_life_s: float | None) -> npt.NDArray[np.float64]:
    ages = np.float64(latest) - times.astype(np.float64)
    return np.ones(len(times)) if half_life_s is None else np.asarray(0.5 ** (ages / half_life_s))


def _is_answer(interactions: Interactions, shown: Impressions) -> npt.NDArray[np.bool_]:
    """[number of interactions] whether its user liked the item in a slate."""
    row, slot = np.nonzero(shown.liked)
    answers = set(zip(shown.user[row].tolist(), shown.items[row, slot].tolist(), strict=True))
    pairs = zip(interactions.user.tolist(), interactions.item.tolist(), strict=True)
    return np.array([pair in answers for pair in pairs], np.bool_)


class Histories:
    """What users did so far, as the service would tell it."""

    def __init__(self, length: int) -> None:
        """`length`: how much of it is told."""
        self._length = length
        self._likes: defaultdict[int, list[Interaction]] = defaultdict(list)
        self._in_vain: defaultdict[int, list[int]] = defaultdict(list)

    def of(self, user: int) -> tuple[Interaction, ...]:
        """The latest likes of a user, oldest first, and then what they were shown in vain."""
        likes, shown = self._likes.get(user, []), self._in_vain.get(user, [])
        if not shown:
            return tuple(likes[-self._length :])
        told = session_state(likes[-max(1, self._length - SHOWN) :], shown, SHOWN)
        return tuple(Interaction(*past) for past in told)[-self._length :]

    def like(self, user: int, item: int) -> None:
        """Add a like."""
        self._likes[user].append(Interaction(item, Response.POSITIVE))

    def show(self, user: int, items: list[int], liked: list[bool]) -> None:
        """Add a slate and its answers."""
        for item, was_liked in zip(items, liked, strict=True):
            if was_liked:
                self.like(user, item)
            elif item != EMPTY_SLOT:
                vain = self._in_vain[user]
                self._in_vain[user] = [*(other for other in vain if other != item), item][-SHOWN:]
