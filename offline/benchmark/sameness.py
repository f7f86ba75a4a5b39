"""More of the same, or something else? How close a next like is to the last ones, against equally popular items.

Likes of the same second are one occasion: they come from one page, which its maker had sorted. Closeness by text is the
cosine of centred embeddings; by co-likes it is item-kNN's cosine over users of other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from offline.benchmark.baselines.item_knn import CONFIG as KNN
from offline.benchmark.baselines.item_knn import fit_item_knn
from offline.benchmark.baselines.text import centred
from offline.benchmark.data import Floats, Ints, Matrix, UserLog
from offline.benchmark.metrics import match_popular
from offline.benchmark.split import FOLDS, folds_of_users
from offline.states import Embeddings

LAST = 4  # likes that the next one is compared with
A_USER = 20  # likes of a user that count at most, drawn at random
MATCHED = 5
SITTING = 3600  # seconds without a like after which the next one is of another sitting
SAMENESS_STREAM = 7

Closeness = Literal["text", "co_likes"]


class Like(NamedTuple):
    """A liked item with what came before it and what could have come instead."""

    item: int
    last: Ints  # [LAST] the likes right before it
    earlier: Ints  # [LAST] drawn from those before these; empty where there are not enough
    instead: Ints  # [MATCHED] equally popular items that the user never answered
    gap: int  # since the last like, in the log's units of time


@dataclass(frozen=True)
class Sameness:
    """One row a like."""

    users: Ints  # [n]
    values: dict[str, Floats]  # name -> [n], NaN where it is not defined


def sample_likes(user: int, log: UserLog, popularity: Floats, seed: int) -> Iterator[Like]:
    """Some likes of one user that have at least LAST before them; `popularity` [A] among other users."""
    rng = np.random.default_rng([seed, SAMENESS_STREAM, user])
    likes, times = log.likes, log.times[log.liked]
    never = np.ones(len(popularity), np.bool_)
    never[log.items] = False
    candidates = np.flatnonzero(never)
    n_before = np.searchsorted(times, times, "left")  # likes of an earlier time
    places = np.flatnonzero(n_before >= LAST)
    for place in np.sort(rng.permutation(places)[:A_USER]).tolist():
        n = int(n_before[place])
        before = likes[: n - LAST]
        earlier = rng.choice(before, LAST, replace=False) if len(before) >= LAST else np.zeros(0, np.int64)
        instead = match_popular(likes[place : place + 1], candidates, popularity, MATCHED, rng)[0]
        yield Like(int(likes[place]), likes[n - LAST : n], earlier, instead, int(times[place] - times[n - 1]))


def compare(like: Like, closeness: Matrix) -> dict[str, float]:
    """Closeness of the next like and of what is as popular, by the nearest of the last likes and by their mean.

    "more" is the difference; "share" how often the next like is the closer one, ties half; "recent" how much closer it
    is to the last likes than to as many earlier ones of the same user; "later" is "more" where another sitting began.
    """
    found: dict[str, float] = {}
    for name, over in (("nearest", np.max), ("mean", np.mean)):
        near, others = (over(closeness[like.last][:, items], axis=0) for items in ([like.item], like.instead))
        found[f"{name}_next"], found[f"{name}_popular"] = float(near[0]), float(others.mean())
        found[f"{name}_more"] = float(near[0] - others.mean())
        found[f"{name}_share"] = float(((near > others) + 0.5 * (near == others)).mean())
        earlier = over(closeness[like.earlier, like.item]) if len(like.earlier) else np.nan
        found[f"{name}_recent"] = float(near[0] - earlier)
        found[f"{name}_later"] = found[f"{name}_more"] if like.gap >= SITTING else np.nan
    return found


def measure(
    logs: Sequence[UserLog],
    embeddings: Embeddings,
    kind: Closeness,
    seed: int,
    progress: Callable[[int], None] = lambda n: None,
) -> Sameness:
    """Compare likes of all users; `embeddings` [A, d]."""
    n_items = len(embeddings)
    popularity = np.bincount(np.concatenate([log.likes for log in logs]), minlength=n_items).astype(np.float64)
    folds = folds_of_users(len(logs), seed)
    rows: list[dict[str, float]] = []
    users: list[int] = []
    by_text = centred(embeddings)
    closeness = by_text @ by_text.T
    for fold in range(FOLDS):
        if kind == "co_likes":
            others = [log.likes for user, log in enumerate(logs) if folds[user] != fold]
            closeness = fit_item_knn(others, n_items, KNN).similarity()
        for user in np.flatnonzero(folds == fold).tolist():
            of_others = popularity.copy()
            of_others[logs[user].likes] -= 1
            for like in sample_likes(user, logs[user], of_others, seed):
                rows.append(compare(like, closeness))
                users.append(user)
        progress(1)
    names = rows[0] if rows else ()
    return Sameness(np.array(users, np.int64), {name: np.array([row[name] for row in rows]) for name in names})
