"""The log's entries: what is encoded comes back; anything else is an EventError."""

from __future__ import annotations

import contextlib
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store import events
from service.store.events import Event, EventError, Feedback, Impression, ItemChanged, UserErased

_text = st.text(st.characters(codec="utf-8"), max_size=20)
_number = st.floats(allow_nan=False)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_propensity = st.floats(0.0, 1.0, exclude_min=True)
_slots = st.integers(0, 5).flatmap(
    lambda k: st.tuples(
        st.lists(_text, min_size=k, max_size=k).map(tuple), st.lists(_propensity, min_size=k, max_size=k).map(tuple)
    )
)
_impressions = st.builds(
    lambda slots, **fields: Impression(items=slots[0], propensities=slots[1], **fields),
    slots=_slots,
    recommendation_id=_text,
    user=_text,
    arm=_text,
    policy_version=st.integers(0, 2**53),
    history=st.lists(st.tuples(_text, _finite), max_size=4).map(tuple),
    candidate_hash=_text,
    masked=st.lists(_text, max_size=3).map(tuple),
    candidates=st.none() | st.lists(_text, max_size=3).map(tuple),
    weight=_number,
    entropy=_number,
)
_feedback = st.builds(
    Feedback,
    event_id=_text,
    user=_text,
    item_id=_text,
    reward=_finite,
    recommendation_id=st.none() | _text,
    type=st.none() | _text,
    occurred_at=st.none() | _number,
)
_items = st.builds(ItemChanged, item_id=_text, embedding=st.binary(), hidden=st.booleans(), deleted=st.booleans())
_events = _impressions | _feedback | _items | st.builds(UserErased, user=_text)


@given(_events)
def test_what_is_encoded_comes_back(event: Event) -> None:
    assert events.decode(events.encode(event)) == event


@given(st.binary(max_size=60) | st.tuples(_events, st.integers(0, 200)).map(lambda e: events.encode(e[0])[: e[1]]))
def test_other_bytes_are_event_errors(data: bytes) -> None:
    with contextlib.suppress(EventError):
        events.decode(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"event": "impression"}, "missing required field `recommendation_id`"),
        ({"event": "other"}, "Invalid value 'other'"),
        ({"event": "erased", "user": 7}, r"\$.user"),
        ({"user": "u"}, "missing required field `event`"),
        ([], "Expected `object`"),
        (
            msgspec.to_builtins(Impression("r", "u", "a", 1, (), ("a",), (0.5,), "")) | {"propensities": []},
            "differ in length",
        ),
        *(
            (msgspec.to_builtins(Impression("r", "u", "a", 1, (), ("a",), (p,), "")), "`propensities` must be above 0")
            for p in (0.0, -0.1, 1.1, math.nan, math.inf)
        ),
        (msgspec.to_builtins(Impression("r", "u", "a", 1, (("b", math.inf),), (), (), "")), "`history` must be finite"),
        (msgspec.to_builtins(Feedback("e", "u", "i", math.nan)), "`reward` must be finite"),
    ],
)
def test_an_event_error_names_the_field(data: object, message: str) -> None:
    with pytest.raises(EventError, match=message):
        events.decode(msgspec.msgpack.encode(data))


def test_deep_nesting_is_an_event_error() -> None:
    with pytest.raises(EventError):
        events.decode(b"\x81\xa1x" + b"\x91" * 100_000)
