"""A session as one string: its codec, and what the scripts in Redis make of it against plain Python."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import redis as syncredis
import redis.asyncio as aioredis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.events import Feedback, Impression
from service.keys import Keys
from service.sessions import MAX_ITEMS, Session, SessionStore, decode, encode, encode_places
from service.settings import Settings
from service.streams import EventLog

PLACES = st.integers(0, MAX_ITEMS - 1)
REWARDS = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(PLACES, REWARDS), max_size=255), st.lists(PLACES, max_size=300), st.integers(0, 2**40))
def test_what_is_encoded_comes_back(history: list[tuple[int, float]], seen: list[int], seq: int) -> None:
    session = decode(encode(history, seen), seq)
    assert [place for place, _ in session.history] == [place for place, _ in history]
    for (_, decoded), (_, given_reward) in zip(session.history, history, strict=True):
        assert np.float32(decoded) == np.float32(given_reward)
    responded = {place for place, _ in history}
    vain = [place for place in seen if place not in responded]
    again = [place for place in seen if place in responded]
    assert list(session.seen[: len(vain)]) == vain and session.catalogue_seq == seq
    assert list(session.seen[len(session.seen) - len(again) :]) == again
    assert set(session.seen) == responded | set(seen)


@pytest.mark.parametrize("reward", [0.2, 1.0, -1.0, 0.1, 3.14, 0.0])
def test_rewards_come_back_as_they_were_written(reward: float) -> None:
    assert decode(encode([(1, reward)], [])).history == ((1, reward),)


def test_the_size_is_what_the_docstring_says() -> None:
    assert len(encode([(n, 1.0) for n in range(20)], range(10))) == 171


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00ab", encode([(1, 1.0)], [2])[:-1], b"no session"])
def test_what_is_no_session_is_an_empty_one(data: bytes) -> None:
    assert decode(data) == Session((), (), 0)


def test_a_reward_that_is_no_number_is_left_out() -> None:
    assert decode(encode([(1, math.nan), (2, math.inf), (3, 1.0)], [4])) == Session(((3, 1.0),), (4, 3), 0)


def test_items_that_are_not_known_here_are_left_out() -> None:
    session = Session(((0, 1.0), (9, 1.0)), (1, 9), 0)
    assert session.named(["a", "b"]) == ([("a", 1.0)], ["b"])


def test_a_catalogue_too_large_is_an_error() -> None:
    with pytest.raises(OverflowError):
        encode_places([MAX_ITEMS])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("shown"), st.lists(st.integers(0, 12), max_size=4)),
        st.tuples(st.just("click"), st.integers(0, 12), st.sampled_from([1.0, 0.5, 0.0, -1.0])),
        st.tuples(st.just("spoilt"), st.sampled_from([b"", b"\x07", b"\x00ab"])),
        st.tuples(st.just("replaced")),  # by something that is no string
    ),
    max_size=25,
)


def stays(known: float | None, reward: float) -> bool:
    return known is not None and (reward == 0 or (reward > 0 and known > reward))


class Model:
    """A session in plain Python: what the scripts must make of it."""

    def __init__(self, n_history: int, n_seen: int) -> None:
        self.n_history, self.n_seen = n_history, n_seen
        self.history: list[tuple[int, float]] = []
        self.others: list[int] = []  # seen, without a response that is kept

    def show(self, places: list[int]) -> None:
        """A slate; an empty one changes nothing."""
        if places:
            self.others = [*self.others, *places][-self.n_seen :]

    def respond(self, place: int, reward: float) -> None:
        """A response."""
        if place in self.others:
            self.others.remove(place)
        known = dict(self.history)
        self.history = [past for past in self.history if past[0] != place]
        self.history.append((place, known[place] if stays(known.get(place), reward) else reward))
        while len(self.history) > self.n_history:
            of = self.history[:-1] if self.history[-1][1] else self.history
            weakest = min(of, key=lambda past: abs(past[1]))
            self.history.remove(weakest)
            self.others.insert(0, weakest[0])
        self.others = self.others[-self.n_seen :]

    def forget(self) -> None:
        """It is no session any more."""
        self.history, self.others = [], []

    def as_session(self) -> Session:
        """As it is read."""
        responded = [place for place, _ in self.history]
        kinds = (
            [place for place in self.others if place not in responded],
            [place for place in responded if place not in self.others],
            [place for place in self.others if place in responded],
        )
        return Session(tuple(self.history), tuple(place for kind in kinds for place in kind), 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, longest=st.sampled_from([(1, 1), (3, 5), (20, 200)]))
async def test_redis_does_what_plain_python_does(
    settings: Settings, redis: syncredis.Redis, steps: list[tuple[Any, ...]], longest: tuple[int, int]
) -> None:
    changed = settings.model_copy(update={"history_length": longest[0], "seen_limit": longest[1]})
    keys, model = Keys(settings.key_prefix), Model(*longest)
    redis.flushdb()
    async with aioredis.from_url(settings.redis_url) as client:
        log, store = EventLog(client, client, keys, changed), SessionStore(client, keys)
        for number, (kind, *what) in enumerate(steps):
            if kind == "shown":
                names = tuple(map(str, what[0]))
                impression = Impression("r", "u:ann", "adaptive", 1, (), names, (0.1,) * len(names), "")
                await log.append_impressions([(impression, what[0])])
                model.show(what[0])
            elif kind == "click":
                event = Feedback(str(number), "u:ann", str(what[0]), what[1])
                again = event  # in the same array, with the same id
                assert await log.append_feedback([event, again], [what[0], what[0]]) == [True, False]
                model.respond(*what)
            elif kind == "spoilt":
                redis.set(keys.session("u:ann"), what[0])
                model.forget()
            elif kind == "replaced":
                redis.delete(keys.session("u:ann"))
                redis.rpush(keys.session("u:ann"), "a list")
                model.forget()
            assert (await store.load(["u:nobody", "u:ann"]))[1] == model.as_session()
