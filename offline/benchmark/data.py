"""The data sets that judge, how each of them is split, and the users' logs that they are read into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from offline.datasets import Dataset, Interactions
from offline.sources import FOLDER_SOURCES, load_coat_parts, movielens

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float32]

# "time": of all users; "order": within each user; "none": the log does not say.
Order = Literal["time", "order", "none"]
ORDER_STREAM, INTERLEAVING_STREAM = 1, 2  # of random numbers, below the seed


@dataclass(frozen=True)
class Source:
    """A data set and its split: `min_liked` likes make a user a case, `n_held_out` of them are held out."""

    name: str
    title: str
    folder: str | None  # below --data; None: inside a package
    order: Order
    min_liked: int = 15
    n_history: int = 10  # likes, and as many dislikes, before the cut
    n_held_out: int = 5
    disliked_at: float | None = None  # a value of this or less is a dislike; None: the log holds no dislikes
    max_users: int | None = None  # cases, drawn at random
    unbiased: bool = False  # items drawn at random were rated: these are the test


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        source.name: source
        for source in (
            Source("movielens", "MovieLens latest-small", None, "time", disliked_at=2.0),
            Source("movielens100k", "MovieLens 100K", "movielens-100k", "time", disliked_at=2.0),
            Source("lfm", "LFM", "lastfm-2k", "none"),
            Source("industry", "Industry", "amazon-industrial", "order", 4, 10, 1, max_users=1000),
            Source("coat", "Coat", "coat", "none", min_liked=1, disliked_at=2.0, unbiased=True),
        )
    }
)


class UserLog(NamedTuple):
    """One user's answers, oldest first."""

    items: Ints  # [n] rows of the catalogue
    liked: Bools  # [n]
    disliked: Bools  # [n]; what is neither was answered without either
    is_random: Bools  # [n] the item was drawn uniformly at random for this user
    times: Ints  # [n] unix seconds, or the order; what has the same time happened at once

    @property
    def likes(self) -> Ints:
        """Liked items, oldest first."""
        return self.items[self.liked]


class Loaded(NamedTuple):
    """A data set as it judges."""

    dataset: Dataset
    logs: tuple[UserLog, ...]


def find(source: Source, data: Path) -> Path | None:
    """The folder of its files, or None where it is not there; MovieLens latest-small needs none and gives `data`."""
    folder = data if source.folder is None else data / source.folder
    return folder if source.folder is None or folder.is_dir() else None


def load(source: Source, data: Path, seed: int) -> Loaded:
    """Read a data set.

    Raises:
        OfflineError: a file or package is missing, or a file is malformed.
    """
    if source.folder is None:
        dataset, is_random = movielens(), None
    elif source.unbiased:
        dataset, is_random = load_coat_parts(data / source.folder)
    else:
        dataset, is_random = FOLDER_SOURCES[source.name](data / source.folder), None
    assert dataset.interactions is not None
    return Loaded(dataset, user_logs(dataset.interactions, source, seed, is_random))


def user_logs(
    interactions: Interactions, source: Source, seed: int, is_random: Bools | None = None
) -> tuple[UserLog, ...]:
    """Logs of all users in order of time. Where the log says none, and among equal times, the order is random."""
    order = ordered(interactions, source, seed, by_user=True)
    users = interactions.user[order]
    items, liked = interactions.item[order].astype(np.int64), interactions.liked[order]
    limit = -np.inf if source.disliked_at is None else source.disliked_at
    disliked = interactions.value[order] <= limit
    drawn = np.zeros(len(order), np.bool_) if is_random is None else is_random[order]
    ends = np.searchsorted(users, np.arange(1, interactions.n_users))
    times = np.arange(len(order)) if source.order == "none" else interactions.time[order]
    columns = (np.split(column, ends) for column in (items, liked, disliked, drawn, times))
    return tuple(UserLog(*parts) for parts in zip(*columns, strict=True))


def ordered(interactions: Interactions, source: Source, seed: int, *, by_user: bool) -> Ints:
    """Rows of the interactions by time, or by user and then time; ties are broken at random.

    Ties matter: a file's own order among equal times often is that of the item numbers, which tell how old items are.
    """
    jitter = np.random.default_rng([seed, ORDER_STREAM]).random(len(interactions.user))
    time = np.zeros_like(interactions.time) if source.order == "none" else interactions.time
    keys = (jitter, time, interactions.user) if by_user else (jitter, time)
    return np.lexsort(keys).astype(np.int64)


def liked_matrix(histories: Sequence[Sequence[int] | Ints], n_items: int) -> Matrix:
    """One row a user, 1 where an item is in the history; [U, A]."""
    matrix = np.zeros((len(histories), n_items), np.float32)
    for row, history in zip(matrix, histories, strict=True):
        row[np.asarray(history, np.int64)] = 1.0
    return matrix
