"""A session as one string: its codec, and what the scripts in Redis make of it against plain Python."""

from __future__ import annotations

import math
import re
import struct
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis as syncredis
import redis.asyncio as aioredis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.settings import Settings
from service.store import events, sessions
from service.store.event_log import EventLog
from service.store.events import Feedback, Impression, VisitorJoined
from service.store.keys import Keys
from service.store.scripts import script
from service.store.sessions import MAX_ITEMS, Reaction, Session, SessionStore, decode, encode, encode_places, joined

PLACES = st.integers(0, MAX_ITEMS - 1)
TIMES = st.integers(0, 2**42).map(lambda ms: ms / 1000)
REWARDS = st.floats(-1e6, 1e6, width=32)


def times(data: bytes) -> list[float]:
    """When the responses of an encoded session were, unix seconds."""
    entries = [data[2 + 13 * n : 15 + 13 * n] for n in range(data[1])]
    return [int.from_bytes(entry[7:], "little") / 1000 for entry in entries]


@given(st.lists(st.tuples(PLACES, REWARDS, TIMES), max_size=255), st.lists(PLACES, max_size=300), st.integers(0, 2**40))
def test_what_is_encoded_comes_back(history: list[tuple[int, float, float]], seen: list[int], seq: int) -> None:
    session = decode(encode(history, seen), seq)
    assert [place for place, _ in session.history] == [place for place, _, _ in history]
    assert times(encode(history, seen)) == [at for _, _, at in history]
    for (_, decoded), (_, given_reward, _) in zip(session.history, history, strict=True):
        assert np.float32(decoded) == np.float32(given_reward)
    responded = {place for place, _, _ in history}
    vain = [place for place in seen if place not in responded]
    again = [place for place in seen if place in responded]
    assert list(session.seen[: len(vain)]) == vain and session.catalogue_seq == seq
    assert list(session.seen[len(session.seen) - len(again) :]) == again
    assert set(session.seen) == responded | set(seen)


@pytest.mark.parametrize("reward", [0.2, 1.0, -1.0, 0.1, 3.14, 0.0])
def test_rewards_come_back_as_they_were_written(reward: float) -> None:
    assert decode(encode([(1, reward, 0.0)], [])).history == ((1, reward),)


def test_the_size_is_what_the_docstring_says() -> None:
    assert len(encode([(n, 1.0, 1.7e9) for n in range(20)], range(10), 1.7e9, {"purchase": range(10)})) == 365


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00ab", encode([(1, 1.0, 0.0)], [2])[:-1], b"no session"])
def test_what_is_no_session_is_an_empty_one(data: bytes) -> None:
    assert decode(data) == Session((), (), 0)


def test_a_reward_that_is_no_number_is_left_out() -> None:
    data = encode([(1, math.nan, 0.0), (2, math.inf, 0.0), (3, 1.0, 5.0)], [4])
    assert decode(data) == Session(((3, 1.0),), (4, 3), 0)


def test_items_that_are_not_known_here_are_left_out() -> None:
    session = Session(((0, 1.0), (9, 1.0)), (1, 9), 0)
    assert session.named(["a", "b"]) == ([("a", 1.0)], ["b"])


def test_a_catalogue_too_large_is_an_error() -> None:
    with pytest.raises(OverflowError):
        encode_places([MAX_ITEMS])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("shown"), st.lists(st.integers(0, 12), max_size=4)),
        st.tuples(
            st.just("click"),
            st.integers(0, 12),
            st.sampled_from([1.0, 0.5, 0.0, -1.0]),
            st.booleans(),
            st.integers(0, 9),
            st.sampled_from([None, "view", "purchase"]),
        ),
        st.tuples(st.just("undo"), st.integers(0, 12)),
        st.tuples(st.just("spoilt"), st.sampled_from([b"", b"\x07", b"\x00ab"])),
        st.tuples(st.just("replaced")),  # by something that is no string
    ),
    max_size=25,
)


class Model:
    """A session in plain Python: what the scripts must make of it."""

    def __init__(self, n_history: int, n_seen: int) -> None:
        self.n_history, self.n_seen = n_history, n_seen
        self.history: list[tuple[int, float, float]] = []  # item, reward, when
        self.others: list[int] = []  # seen, without a response that is kept
        self.by_type: dict[str, list[int]] = {}

    def show(self, places: list[int]) -> None:
        """A slate; an empty one changes nothing."""
        if places:
            self.others = [*self.others, *places][-self.n_seen :]

    def respond(self, place: int, reward: float, explicit: bool, at: float) -> None:
        """A response."""
        self.others = [other for other in self.others if other != place]
        known = next((Reaction(*past[1:]) for past in self.history if past[0] == place), None)
        history = [past for past in self.history if past[0] != place]
        said = joined(known, Reaction(reward, at), explicit)
        after = max((n + 1 for n, past in enumerate(history) if past[2] <= said.at), default=0)
        self.history = [*history[:after], (place, *said), *history[after:]]
        while len(self.history) > self.n_history:
            of = self.history[:-1] if self.history[-1][1] else self.history
            weakest = min(of, key=lambda past: abs(past[1]))
            self.history.remove(weakest)
            self.others.insert(0, weakest[0])
        self.others = self.others[-self.n_seen :]

    def tell(self, place: int, kind: str) -> None:
        """A response has a type."""
        before = [other for other in self.by_type.get(kind, ()) if other != place]
        self.by_type[kind] = [*before, place][-self.n_seen :]

    def undo(self, place: int) -> None:
        """A response is taken back."""
        rest = {kind: [other for other in places if other != place] for kind, places in self.by_type.items()}
        self.by_type = {kind: places for kind, places in rest.items() if places}
        if any(past[0] == place for past in self.history):
            self.history = [past for past in self.history if past[0] != place]
            self.others = [*(other for other in self.others if other != place), place][-self.n_seen :]

    def forget(self) -> None:
        """It is no session any more."""
        self.history, self.others, self.by_type = [], [], {}

    def as_session(self) -> Session:
        """As it is read."""
        responded = [place for place, _, _ in self.history]
        kinds = (
            [place for place in self.others if place not in responded],
            [place for place in responded if place not in self.others],
            [place for place in self.others if place in responded],
        )
        seen = tuple(place for kind in kinds for place in kind)
        return Session(tuple(past[:2] for past in self.history), seen, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, longest=st.sampled_from([(1, 1), (3, 5), (20, 200)]))
async def test_redis_does_what_plain_python_does(
    settings: Settings, redis: syncredis.Redis, steps: list[tuple[Any, ...]], longest: tuple[int, int]
) -> None:
    changed = settings.model_copy(update={"history_length": longest[0], "seen_limit": longest[1]})
    keys, model = Keys(settings.key_prefix), Model(*longest)
    redis.flushdb()
    async with aioredis.from_url(settings.redis_url) as client:
        log, store = EventLog(client, client, keys, changed), SessionStore(client, keys, changed)
        for number, (kind, *what) in enumerate(steps):
            if kind == "shown":
                names = tuple(map(str, what[0]))
                impression = Impression("r", "u:ann", "adaptive", 1, (), names, (0.1,) * len(names), "")
                await log.append_impressions([(impression, what[0])])
                model.show(what[0])
            elif kind == "click":
                now = math.floor(time.time())
                place, reward, explicit, ago, type_ = what
                said = Feedback(str(number), "u:ann", str(place), reward, type=type_, explicit=explicit)
                event = msgspec.structs.replace(said, occurred_at=now - ago)
                again = event  # in the same array, with the same id
                assert await log.append_feedback([event, again], [what[0], what[0]]) == [True, False]
                model.respond(place, reward, explicit, now - ago)
                if type_ is not None:
                    model.tell(place, type_)
            elif kind == "undo":
                await log.append_feedback([Feedback(str(number), "u:ann", "", 0.0, undo=True)], what)
                model.undo(*what)
            elif kind == "spoilt":
                redis.set(keys.session("u:ann"), what[0])
                model.forget()
            elif kind == "replaced":
                redis.delete(keys.session("u:ann"))
                redis.rpush(keys.session("u:ann"), "a list")
                model.forget()
            session = (await store.load(["u:nobody", "u:ann"]))[1]
            assert session == model.as_session() and session.by_type() == model.by_type
            assert session.seen_since(time.time() - 30) == set(session.seen)
            assert session.seen_since(time.time() + 3600) == set()
            if model.history:
                assert times(redis.get(keys.session("u:ann"))) == [past[2] for past in model.history]


async def test_a_session_of_an_older_release_goes_on(settings: Settings, redis: syncredis.Redis) -> None:
    keys = Keys(settings.key_prefix)
    old = b"\x02" + b"".join(encode_places([n]) + struct.pack("<f", 0.5) for n in (1, 2)) + encode_places([9])
    assert decode(old) == Session(((1, 0.5), (2, 0.5)), (9, 1, 2), 0)
    redis.set(keys.session("u:ann"), old)
    async with aioredis.from_url(settings.redis_url) as client:
        await EventLog(client, client, keys, settings).append_feedback([Feedback("e", "u:ann", "", 1.0)], [1])
        (session,) = await SessionStore(client, keys, settings).load(["u:ann"])
    assert (session.history, session.seen) == (((2, 0.5), (1, 1.0)), (9, 2, 1))


async def test_when_items_were_seen_is_taken_as_late_as_it_can_have_been(
    settings: Settings, redis: syncredis.Redis
) -> None:
    """Sessions of the release before have no times of what was shown: those count from now on."""
    keys, hour = Keys(settings.key_prefix), 3600
    session = decode(encode([(1, 1.0, 50.5 * hour), (2, 1.0, 0.0)], [7], 50.5 * hour))
    assert session.seen_since(50 * hour) == {1, 2, 7} == session.seen_since(50.5 * hour)
    assert session.seen_since(50.6 * hour) == {2, 7}, "to the hour; at an unknown time"
    assert session.seen_since(51 * hour) == {2}
    untimed = b"\xff\x01" + encode([(1, 1.0, 9 * hour)], [])[2:15] + encode_places([7])
    assert decode(untimed) == Session(((1, 1.0),), (7, 1), 0)
    assert decode(untimed).seen_since(10 * hour) == {7} and decode(untimed).by_type() == {}
    redis.set(keys.session("u:ann"), untimed)
    async with aioredis.from_url(settings.redis_url) as client:
        impression = Impression("r", "u:ann", "adaptive", 1, (), ("8",), (0.1,), "")
        await EventLog(client, client, keys, settings).append_impressions([(impression, [8])])
        (session,) = await SessionStore(client, keys, settings).load(["u:ann"])
    assert session.seen_since(time.time() - 30) == {7, 8} and session.seen_since(time.time() + hour) == set()
    assert (session.history, session.seen) == (((1, 1.0),), (7, 8, 1))


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_of_a_session_hurt(data: bytes, ours: bool) -> None:
    session = decode((b"\xfe" if ours else b"") + data)
    assert session.seen_since(0.0) >= {place for place, _ in session.history}
    assert all(0 <= place < MAX_ITEMS for places in session.by_type().values() for place in places)


async def test_a_visitor_who_logs_in_brings_what_they_did(settings: Settings, redis: syncredis.Redis) -> None:
    keys = Keys(settings.key_prefix)
    hour, bought = 3600, {"purchase": [4, 5], "like": [1]}
    redis.set(keys.session("s:tab"), encode([(1, 1.0, 20.0), (2, 0.2, 40.0)], [7, 8], 5.0 * hour, bought))
    redis.set(keys.session("u:ann"), encode([(3, 1.0, 10.0), (2, 1.0, 30.0)], [7, 1], 9.0 * hour, {"purchase": [5, 6]}))
    async with aioredis.from_url(settings.redis_url) as client:
        store = SessionStore(client, keys, settings)
        assert await store.join("s:tab", "u:ann") and not await store.join("s:tab", "u:ann"), "once"
        ann, tab = await store.load(["u:ann", "s:tab"])
        assert await store.visitors("u:ann") == ["s:tab"]
    assert ann.history == ((3, 1.0), (1, 1.0), (2, 1.0))
    assert times(redis.get(keys.session("u:ann"))) == [10.0, 20.0, 40.0]
    assert ann.seen == (7, 8, 3, 1, 2) and tab.seen == ()
    assert ann.by_type() == {"purchase": [6, 4, 5], "like": [1]} and tab.by_type() == {}
    assert ann.seen_since(8.0 * hour) == {7}, "when either of them saw it last"
    assert [events.decode(fields[b"e"]) for _, fields in redis.xrange(keys.events)] == [VisitorJoined("s:tab", "u:ann")]


@pytest.mark.parametrize(
    ("said", "likes"),
    [([1.0], 1), ([1.0, 1.0], 1), ([0.2, 1.0], 1), ([1.0, -1.0], 0), ([-1.0, 1.0], 1), ([1.0, None], 0), ([None], 0)],
)
async def test_an_item_is_as_popular_as_it_has_users_who_like_it(
    settings: Settings, redis: syncredis.Redis, said: list[float | None], likes: int
) -> None:
    keys = Keys(settings.key_prefix)
    async with aioredis.from_url(settings.redis_url) as client:
        log = EventLog(client, client, keys, settings)
        for n, reward in enumerate(said):
            await log.append_feedback([Feedback(str(n), "u:ann", "film", reward or 0.0, undo=reward is None)], [5])
    assert (redis.zscore(keys.popularity, "film") or 0) == likes


def test_both_sides_have_the_same_sizes() -> None:
    (line,) = re.findall("^local FORMAT, .*$", script("session"), re.MULTILINE)
    formats, sizes = (sessions._FORMAT, sessions._UNTIMED), (sessions.PLACE_BYTES, sessions.SEEN_BYTES)
    numbers = (*formats, *sizes, sessions.RESPONSE_BYTES, sessions._OLD_BYTES)
    assert line.endswith(f" = {', '.join(map(str, numbers))}")


@pytest.mark.parametrize("path", sorted((Path(sessions.__file__).parent / "lua").iterdir()), ids=lambda path: path.stem)
def test_a_script_says_what_it_is_given(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(("-- KEYS: ", "-- A library")), path
