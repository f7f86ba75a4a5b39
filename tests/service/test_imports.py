"""What users did before, put into their sessions: merged in order of time, the same twice, later things stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import redis as syncredis
import redis.asyncio as aioredis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.histories.pasts import LeftOut, pasts
from service.histories.reading import Responses
from service.settings import Settings
from service.store.event_log import EventLog
from service.store.events import Feedback, Impression
from service.store.imports import Importer, Past, PastResponse
from service.store.keys import Keys
from service.store.sessions import decode, encode

NOW = 2_000_000_000.0  # later than any clock that the tests run by
REWARDS = (1.0, 0.2, 0.0, -1.0)
ROWS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(REWARDS), st.integers(0, 30)), max_size=25)


def response(place: int, reward: float, at: float, explicit: bool | None = None) -> PastResponse:
    is_explicit = reward in (1.0, -1.0) if explicit is None else explicit
    return PastResponse(f"film-{place}", place, reward, at, is_explicit)


def past(*responses: PastResponse, saw: tuple[int, ...] = (), by_type: dict[str, list[int]] | None = None) -> Past:
    return Past("u:ann", responses, [(place, 10.0) for place in saw], by_type or {})


def rows_of(rows: list[tuple[int, float, float]], user: str = "ann") -> Responses:
    """Rows of (item, reward, when) of one user."""
    items, rewards, at = ([row[n] for row in rows] for n in range(3))
    return Responses(
        users=[user],
        items=[f"film-{n}" for n in range(10)],
        user=np.zeros(len(rows), np.int64),
        item=np.array(items, np.int64),
        reward=np.array(rewards, np.float32),
        explicit=np.array([abs(reward) == 1 for reward in rewards], np.bool_),
        at=np.array(at, np.float64),
        kind=np.array([REWARDS.index(reward) if reward in REWARDS else -1 for reward in rewards], np.int64),
        types=["like", "view", "skip", "dislike"],
    )


def history(redis: syncredis.Redis, keys: Keys) -> tuple[tuple[int, float], ...]:
    return decode(redis.get(keys.session("u:ann")) or b"").history


@pytest.mark.parametrize(
    ("live", "old", "after"),
    [
        ([(1, 1.0, 50)], response(2, 1.0, 20), [(2, 1.0), (1, 1.0)]),  # in its place in time
        ([(1, 0.2, 50)], response(1, 1.0, 20), [(1, 1.0)]),  # a view is nothing after a purchase
        ([(1, 0.2, 50)], response(1, -1.0, 20), [(1, -1.0)]),  # nor after a dislike
        ([(1, -1.0, 50)], response(1, 1.0, 20), [(1, -1.0)]),  # but what was said later stays
        ([(1, 1.0, 50)], response(1, -1.0, 20), [(1, 1.0)]),
        ([(1, 0.0, 50)], response(1, 1.0, 20), [(1, 0.0)]),
        ([(1, 1.0, 50)], response(1, 0.2, 20), [(1, 1.0)]),
        ([(1, 1.0, 10)], response(1, -1.0, 20), [(1, -1.0)]),  # here it is the file that knows better
        ([(1, 1.0, 10)], response(1, 0.2, 20), [(1, 1.0)]),
        ([(n, 1.0, 50 + n) for n in range(3)], response(7, 1.0, 20), [(0, 1.0), (1, 1.0), (2, 1.0)]),  # it is full
        ([(n, 0.2, 50 + n) for n in range(3)], response(7, 1.0, 20), [(7, 1.0), (1, 0.2), (2, 0.2)]),
    ],
)
def test_what_came_later_stays(
    live: list[tuple[int, float, float]],
    old: PastResponse,
    after: list[tuple[int, float]],
    settings: Settings,
    redis: syncredis.Redis,
    keys: Keys,
) -> None:
    redis.set(keys.session("u:ann"), encode(live, []), ex=1_000)
    importer = Importer(redis, keys, settings.model_copy(update={"history_length": 3}))
    changed = importer.add([past(old)])
    assert history(redis, keys) == tuple(after)
    stored = redis.get(keys.session("u:ann"))
    assert importer.add([past(old)]) == [False], changed
    assert redis.get(keys.session("u:ann")) == stored
    assert 0 < redis.ttl(keys.session("u:ann")) <= 1_000, "it is forgotten when it would have been"


def test_an_opinion_of_a_type_of_ones_own_stays(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    own = {"rewards": {"view": 0.2, "fine": 0.5, "love": 1.0}, "explicit_types": ["fine", "love"]}
    redis.set(keys.session("u:ann"), encode([(1, 0.5, 50), (2, 0.2, 60)], []))
    Importer(redis, keys, settings.model_copy(update=own)).add([past(response(1, 1.0, 5), response(2, 1.0, 6))])
    assert history(redis, keys) == ((1, 0.5), (2, 1.0))


def test_nothing_is_logged_and_popularity_counts_whoever_likes(
    settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    redis.set(keys.session("u:ann"), encode([(1, 1.0, 5.0), (2, 1.0, 5.0)], [9]))
    importer = Importer(redis, keys, settings)
    pasts_ = [past(response(1, 1.0, 20), response(2, -1.0, 20), response(3, 1.0, 20), saw=(8, 9, 3))]
    assert (importer.add(pasts_), importer.add(pasts_)) == ([True], [False])
    assert {item.decode(): n for item, n in redis.zscan_iter(keys.popularity)} == {"film-2": -1, "film-3": 1}
    assert not redis.exists(keys.events)
    session = decode(redis.get(keys.session("u:ann")))
    assert session.seen == (8, 9, 1, 2, 3)


def test_a_user_without_a_session_has_one_that_expires(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    importer = Importer(redis, keys, settings)
    assert importer.add([past(response(1, 1.0, 5)), Past("u:bob", (), ()), Past("u:eve", (), ((4, 5.0),))]) == [1, 0, 1]
    assert 0 < redis.ttl(keys.session("u:ann")) <= settings.session_ttl_s
    assert not redis.exists(keys.session("u:bob")) and decode(redis.get(keys.session("u:eve"))).seen == (4,)


@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, live=ROWS, shown=st.lists(st.integers(0, 9), max_size=6), longest=st.sampled_from([1, 3, 20]))
async def test_the_same_twice_changes_nothing(
    settings: Settings,
    redis: syncredis.Redis,
    rows: list[tuple[int, float, int]],
    live: list[tuple[int, float, int]],
    shown: list[int],
    longest: int,
) -> None:
    """Whatever a session was, and although not all of a file fits into it."""
    small = settings.model_copy(update={"history_length": longest, "seen_limit": 2 * longest})
    keys = Keys(settings.key_prefix)
    redis.flushdb()
    now = redis.time()[0]
    async with aioredis.from_url(settings.redis_url) as client:
        log = EventLog(client, client, keys, small)
        for n, (place, reward, ago) in enumerate(live):
            event = Feedback(str(n), "u:ann", str(place), reward, occurred_at=now - 2 * ago, explicit=abs(reward) == 1)
            await log.append_feedback([event], [place])
        names = tuple(map(str, shown))
        impression = Impression("r", "u:ann", "adaptive", 1, (), names, (0.1,) * len(names), "")
        await log.append_impressions([(impression, shown)])
    before = redis.xlen(keys.events)
    timed = [(place, reward, now - 1 - 2 * ago) for place, reward, ago in rows]
    known = list(pasts(rows_of(timed), range(10), now, small, None, LeftOut()))
    importer = Importer(redis, keys, small)
    importer.add(known)
    once, popular = redis.get(keys.session("u:ann")), redis.zrange(keys.popularity, 0, -1, withscores=True)
    assert not any(importer.add(known))
    assert redis.get(keys.session("u:ann")) == once and redis.xlen(keys.events) == before
    assert redis.zrange(keys.popularity, 0, -1, withscores=True) == popular


@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, longest=st.sampled_from([1, 2, 5, 20]))
async def test_it_is_as_if_the_service_had_been_there(
    settings: Settings, redis: syncredis.Redis, rows: list[tuple[int, float, int]], longest: int
) -> None:
    """The same history as by feedback in order, where nothing has to go; else the strongest of it all, as the script
    in Redis would keep of the whole."""
    wide, small = (settings.model_copy(update={"history_length": n}) for n in (200, longest))
    keys = Keys(settings.key_prefix)
    redis.flushdb()
    now = redis.time()[0]
    timed: list[tuple[int, float, float]] = sorted(
        [(place, reward, now - 100 + n + 2 * at) for n, (place, reward, at) in enumerate(rows)], key=lambda row: row[2]
    )
    async with aioredis.from_url(settings.redis_url) as client:
        log = EventLog(client, client, keys, wide)
        for n, (place, reward, at) in enumerate(timed):
            event = Feedback(str(n), "u:ann", str(place), reward, occurred_at=at, explicit=abs(reward) == 1)
            await log.append_feedback([event], [place])
    fed = history(redis, keys)
    by_time = [(place, reward, float(n)) for n, (place, reward) in enumerate(fed)]
    redis.delete(keys.session("u:ann"))
    Importer(redis, keys, small).add([past(*(response(*one) for one in by_time))])
    fitted = history(redis, keys)
    for limits, expected in ((wide, fed), (small, fitted)):
        redis.delete(keys.session("u:ann"))
        known = list(pasts(rows_of(timed), range(10), NOW, limits, None, LeftOut()))
        Importer(redis, keys, limits).add(known)
        assert history(redis, keys) == expected


def test_types_come_along_as_the_oldest_of_each(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    small = settings.model_copy(update={"seen_limit": 3})
    redis.set(keys.session("u:ann"), encode([(1, 1.0, 50.0)], [], 0.0, {"like": [1, 2], "view": [3]}))
    timed = [(place, reward, float(at)) for at, (place, reward) in enumerate([(5, 1.0), (6, 0.2), (4, 1.0), (5, 1.0)])]
    known = list(pasts(rows_of(timed), range(10), NOW, small, None, LeftOut()))
    assert known[0].by_type == {"like": [4, 5], "view": [6]}
    importer = Importer(redis, keys, small)
    assert importer.add(known) == [True]
    session = decode(redis.get(keys.session("u:ann")))
    assert session.by_type() == {"like": [5, 1, 2], "view": [6, 3]}, "no more than are kept, and the later ones stay"
    assert importer.add(known) == [False]


def test_who_stayed_away_for_too_long_is_forgotten(settings: Settings) -> None:
    moments = [(0, 700.0), (1, 780.0), (2, 870.0), (3, 950.0), (4, 1_001.0)]  # the gap before the first does not count
    left_out = LeftOut()
    (one,) = pasts(rows_of([(n, 1.0, at) for n, at in moments]), range(10), 1_000.0, settings, 100.0, left_out)
    assert [r.item_id for r in one.responses] == ["film-0", "film-1", "film-2", "film-3"]
    assert (left_out.future, left_out.forgotten) == (1, 0)
    (one,) = pasts(rows_of([(0, 1.0, 700.0), (1, 1.0, 950.0)]), range(10), 1_000.0, settings, 100.0, left_out)
    assert [r.item_id for r in one.responses] == ["film-1"] and left_out.forgotten == 1
    assert list(pasts(rows_of([(0, 1.0, 700.0)]), range(10), 1_000.0, settings, 100.0, left_out)) == []


def test_what_was_seen_and_no_more_is_seen(settings: Settings) -> None:
    nothing: Any = float("nan")
    rows = rows_of([(0, nothing, 1.0), (1, nothing, 2.0), (0, 1.0, 3.0), (2, 0.2, 4.0), (3, 1.0, 5.0)])
    small = settings.model_copy(update={"history_length": 2})
    places = [0, 1, 2, 3, *[None] * 6]
    (one,) = pasts(rows, places, 10.0, small, None, LeftOut())
    assert [r.place for r in one.responses] == [0, 3] and one.saw == [(1, 2.0), (2, 4.0)]
