"""Do people want more of the same? Worlds in which they do, in which they tire, and in which they do not care."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from offline.benchmark.data import UserLog
from offline.benchmark.sameness import LAST, compare, measure, sample_likes
from tests.offline.benchmark.benchmark_examples import camp_embeddings, log_of

N_ITEMS = 200


def world(choose: Callable[[int, np.random.Generator], np.ndarray[tuple[int], np.dtype[np.int64]]]) -> list[UserLog]:
    """60 users of 16 likes; `choose` gives the camp of each."""
    rng = np.random.default_rng(0)
    logs = []
    for user in range(60):
        of_camp = [rng.permutation(np.arange(camp, N_ITEMS, 2)).tolist() for camp in (0, 1)]
        logs.append(log_of([of_camp[camp].pop() for camp in choose(user, rng)]))
    return logs


def found(logs: list[UserLog], kind: str) -> dict[str, float]:
    measured = measure(logs, camp_embeddings(N_ITEMS), "text" if kind == "text" else "co_likes", seed=0)
    return {name: float(np.nanmean(column)) for name, column in measured.values.items() if not np.isnan(column).all()}


@pytest.mark.parametrize("kind", ["text", "co_likes"])
def test_fans_want_more_of_the_same(kind: str) -> None:
    means = found(world(lambda user, rng: np.full(16, user % 2)), kind)
    assert means["nearest_more"] > 0 and means["mean_more"] > 0 and means["nearest_share"] > 0.7
    if kind == "text":
        assert means["mean_recent"] == pytest.approx(0.0, abs=1e-6), "they like now what they liked before"


def test_who_tires_turns_away_from_the_last_likes() -> None:
    """Four of one camp, then four of the other, and so on: what follows four is of the other."""
    tired = found(world(lambda user, rng: np.tile(np.repeat([0, 1], 4), 2)), "text")
    drifting = found(world(lambda user, rng: np.repeat([0, 1], 8)), "text")
    assert tired["mean_recent"] < 0 < drifting["mean_recent"]


def test_who_does_not_care_is_at_chance() -> None:
    means = found(world(lambda user, rng: rng.integers(0, 2, 16)), "text")
    assert means["nearest_share"] == pytest.approx(0.5, abs=0.04)
    assert means["mean_more"] == pytest.approx(0.0, abs=0.08)


def test_one_like_by_hand() -> None:
    log = log_of([0, 1, 2, 3, 4], times=[0, 0, 1, 1, 7200])
    (like,) = sample_likes(0, log, np.ones(10), seed=0)
    assert (like.item, like.last.tolist(), like.gap, len(like.earlier)) == (4, [0, 1, 2, 3], 7199, 0)
    closeness = np.zeros((10, 10), np.float32)
    closeness[:LAST, 4] = [0.1, 0.2, 0.3, 0.6]
    closeness[2, like.instead[0]], closeness[1, like.instead[1]] = 0.5, 0.6
    values = compare(like, closeness)
    assert values["nearest_next"] == pytest.approx(0.6) and values["nearest_popular"] == pytest.approx(1.1 / 5)
    assert values["nearest_share"] == pytest.approx(4.5 / 5), "three zeros and 0.5 are farther, 0.6 ties"
    assert values["mean_next"] == pytest.approx(0.3) and values["mean_more"] == pytest.approx(0.3 - 1.1 / 20)
    assert values["nearest_later"] == values["nearest_more"] and np.isnan(values["nearest_recent"])


def test_what_was_liked_at_once_is_not_before() -> None:
    log = log_of([0, 1, 2, 3, 4, 5], times=[0, 1, 2, 3, 4, 4])
    likes = list(sample_likes(0, log, np.ones(10), seed=0))
    assert [like.item for like in likes] == [4, 5]
    assert all(like.last.tolist() == [0, 1, 2, 3] for like in likes)
    assert all(set(like.instead.tolist()) <= {6, 7, 8, 9} for like in likes), "what was answered is no alternative"
