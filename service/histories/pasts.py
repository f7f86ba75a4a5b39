"""Responses as what a service that had been there would know of each user by now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.histories.reading import Responses
from service.settings import Settings
from service.store.imports import Past, PastResponse
from service.store.sessions import Reaction, joined, user_key


@dataclass
class LeftOut:
    """Rows that are part of no session, by why."""

    unknown_items: int = 0  # rows
    future: int = 0
    forgotten: int = 0  # of users who, after them, stayed away for longer than a session lasts


def pasts(
    responses: Responses,
    places: Sequence[int | None],
    now_s: float,
    settings: Settings,
    ttl_s: float | None,
    left_out: LeftOut,
) -> Iterator[Past]:
    """Yield what is known of each user who has anything, and count in `left_out` what is not.

    Args:
        responses: the rows of a file.
        places: of `responses.items` in the catalogue; None for one that is not there.
        now_s: unix seconds.
        settings: how much is kept of a user.
        ttl_s: after so long without anything a user is forgotten; None for never.
        left_out: is added to.
    """
    place = np.array([-1 if at is None else at for at in places], np.int64)[responses.item]
    is_known, is_past = place >= 0, responses.at <= now_s
    left_out.unknown_items += int((~is_known).sum())
    left_out.future += int((is_known & ~is_past).sum())
    rows = np.flatnonzero(is_known & is_past)
    rows = rows[np.lexsort((responses.at[rows], responses.user[rows]))]  # stable: a moment's rows stay in their order
    ends = np.flatnonzero(np.diff(responses.user[rows], append=-1)) + 1
    for theirs in np.split(rows, ends[:-1]) if len(rows) else ():
        kept = _since_last_forgotten(responses.at[theirs], now_s, math.inf if ttl_s is None else ttl_s)
        left_out.forgotten += len(theirs) - len(kept)
        if len(kept):
            yield _past(responses, theirs[kept], place, settings)


def _since_last_forgotten(at: npt.NDArray[np.float64], now_s: float, ttl_s: float) -> npt.NDArray[np.int64]:
    """Places of the moments `at`, in order, after the last time for which nothing happened for `ttl_s`."""
    gaps = np.flatnonzero(np.diff(at, append=now_s) > ttl_s)
    return np.arange(gaps[-1] + 1 if len(gaps) else 0, len(at))


def _past(responses: Responses, rows: npt.NDArray[np.int64], places: npt.NDArray[np.int64], settings: Settings) -> Past:
    """What is known of a user by `rows`, their rows in order of time."""
    known: dict[int, tuple[Reaction, bool, int]] = {}  # by place: what was said, whether it is explicit, its item
    saw: dict[int, float] = {}
    said = (responses.reward[rows], responses.explicit[rows], responses.at[rows], responses.kind[rows])
    columns = (places[rows], responses.item[rows], *said)
    by_type: dict[str, dict[int, None]] = {}
    for place, item, reward, explicit, at, kind in zip(*(column.tolist() for column in columns), strict=True):
        if kind >= 0:
            theirs = by_type.setdefault(responses.types[kind], {})
            theirs.pop(place, None)
            theirs[place] = None
        if reward != reward:
            saw[place] = at
            continue
        before = known.pop(place, None)
        reaction = joined(None if before is None else before[0], Reaction(reward, at), explicit)
        known[place] = (reaction, explicit if before is None or reaction.reward == reward else before[1], item)
    history = _strongest(list(known.items()), settings.history_length)
    kept = {place for place, _ in history}
    gone = {place: known[place][0].at for place in known.keys() - kept}
    seen = sorted((at, place) for place, at in (saw | gone).items() if place not in kept)
    return Past(
        user_key(responses.users[int(responses.user[rows[0]])], None),
        [PastResponse(responses.items[item], place, *said, explicit) for place, (said, explicit, item) in history],
        [(place, at) for at, place in seen[max(0, len(seen) - settings.seen_limit) :]],
        {name: list(theirs)[-settings.seen_limit :] for name, theirs in by_type.items()},
    )


_Known = tuple[int, tuple[Reaction, bool, int]]


def _strongest(history: list[_Known], n: int) -> list[_Known]:
    """The `n` entries that a session keeps of a history in order of time: the strongest, of equal ones the latest, and
    in any case the latest that is not nothing."""
    if len(history) <= n:
        return history
    strengths = [abs(reaction.reward) for _, (reaction, _, _) in history]
    latest = max((at for at, strength in enumerate(strengths) if strength > 0), default=-1)
    ranked = sorted(range(len(history)), key=lambda at: (at == latest, strengths[at], at))
    return [history[at] for at in sorted(ranked[-n:])]
