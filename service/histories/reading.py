"""A file of interactions as responses: with a reward, a time, and numbers for users and items."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from service.settings import Settings
from service.tables.interactions import Interaction, InteractionFile, Shown

_EVERY = 1_000  # rows between two looks at the progress
_NO_TIME = np.iinfo(np.int64).min


class Meaning(NamedTuple):
    """What a row says of its item."""

    reward: float  # not a number: it was seen, and that is all
    explicit: bool
    kind: str | None = None  # the feedback type


_SEEN = Meaning(float("nan"), False)


class Meanings:
    """What the rows of a file mean to a deployment."""

    def __init__(self, settings: Settings, types: Mapping[str, str], liked_at: float | None) -> None:
        """`types`: by what is a type in the file, a type of `settings.rewards`, or a reward; `liked_at`: least value
        that is a like, where there is no type.

        Raises:
            ValueError: one of `types` is neither, or is too large a reward; the message names it.
        """
        self._liked_at = liked_at
        like = settings.rewards.get("like", settings.largest_reward)
        self._like = Meaning(like, settings.is_explicit("like", like), "like" if "like" in settings.rewards else None)
        self._of_type = {name: Meaning(r, settings.is_explicit(name, r), name) for name, r in settings.rewards.items()}
        for name, meant in types.items():
            if meant in settings.rewards:
                reward = settings.rewards[meant]
                self._of_type[name] = Meaning(reward, settings.is_explicit(meant, reward), meant)
                continue
            try:
                reward = float(meant)
            except ValueError:
                known = ", ".join(sorted(settings.rewards))
                raise ValueError(
                    f"--types {name}={meant}: is neither a type of IALP_REWARDS ({known}) nor a reward"
                ) from None
            if not abs(reward) <= settings.largest_reward:
                largest = settings.largest_reward
                raise ValueError(f"--types {name}={meant}: a reward is from {-largest:g} to {largest:g}")
            self._of_type[name] = Meaning(reward, settings.is_explicit(None, reward))

    def of(self, row: Interaction) -> Meaning | None:
        """By its type if it has one; else whether it says `liked`, or has enough value; else it is a like. None for a
        type that means nothing here."""
        if row.kind is not None and row.liked is None:
            return self._of_type.get(row.kind)
        liked = row.liked
        if liked is None:
            liked = self._liked_at is None or (row.value is not None and row.value >= self._liked_at)
        return self._like if liked else _SEEN


@dataclass(frozen=True)
class Responses:
    """N usable rows of a file, in its order; users and items as numbers."""

    users: list[str]
    items: list[str]
    user: npt.NDArray[np.int64]  # [N], place in `users`
    item: npt.NDArray[np.int64]  # [N], place in `items`
    reward: npt.NDArray[np.float32]  # [N], not a number where an item was seen and that is all
    explicit: npt.NDArray[np.bool_]  # [N]
    at: npt.NDArray[np.float64]  # [N], unix seconds
    kind: npt.NDArray[np.int64]  # [N], place in `types`; -1: it has none
    types: list[str] = field(default_factory=list)  # feedback types
    timeless: int = 0  # rows left out because others have a time and they have none
    unknown_types: Counter[str] = field(default_factory=Counter)  # rows left out, by their type
    has_times: bool = True


def read_responses(
    file: InteractionFile, meanings: Meanings, without_times_s: float, advance: Callable[[int], None] = lambda n: None
) -> Responses:
    """Read all rows. Where none has a time, the last one was at `without_times_s`, and each a millisecond before the
    next; `advance` hears of the rows read.

    Raises:
        TableError: the file cannot be read to its end.
    """
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    types: dict[str | None, int] = {None: -1}
    user, item, reward, explicit, time = array("q"), array("q"), array("f"), array("b"), array("q")
    kind = array("q")
    unknown: Counter[str] = Counter()
    n = 0
    for n, row in enumerate(file, 1):
        if n % _EVERY == 0:
            advance(_EVERY)
        if isinstance(row, Shown):
            meaning, which = _SEEN, row.items
        elif (said := meanings.of(row)) is not None:
            meaning, which = said, (row.item,)
        else:
            unknown[row.kind or ""] += 1
            continue
        for one in which:
            user.append(users.setdefault(row.user, len(users)))
            item.append(items.setdefault(one, len(items)))
            reward.append(meaning.reward)
            explicit.append(meaning.explicit)
            kind.append(types.setdefault(meaning.kind, len(types) - 1))
            time.append(_NO_TIME if row.time is None else row.time)
    advance(n % _EVERY)
    at = np.array(time, np.int64)
    timed = at != _NO_TIME
    has_times = bool(timed.any())
    kept = timed if has_times else np.ones(len(at), np.bool_)
    seconds = at.astype(np.float64) if has_times else without_times_s - np.arange(len(at))[::-1] / 1000
    return Responses(
        list(users),
        list(items),
        np.array(user, np.int64)[kept],
        np.array(item, np.int64)[kept],
        np.array(reward, np.float32)[kept],
        np.array(explicit, np.bool_)[kept],
        seconds[kept],
        np.array(kind, np.int64)[kept],
        [name for name in types if name is not None],
        timeless=int((~kept).sum()),
        unknown_types=unknown,
        has_times=has_times,
    )
