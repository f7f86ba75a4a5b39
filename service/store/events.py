"""The event log's entries. Each owns its codec: one msgpack map with a type tag in the stream field `e`."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from service.policy.context import ContextValue

FIELD = b"e"
_ABOUT_ONE = 1.0 + 1e-6  # a sum of probabilities may round upwards


Mask = npt.NDArray[np.bool_]


Context = Mapping[str, ContextValue]


class EventError(Exception):
    """A stream entry that is not an event of ours."""


class Shadow(msgspec.Struct, frozen=True, array_like=True):
    """Slate that a shadow version would have shown instead, see `shadow`."""

    version: int
    items: tuple[str, ...]  # its own slate
    propensities: tuple[float, ...]  # it would have given the items that were shown, each given the slots above


class Impression(msgspec.Struct, frozen=True, tag_field="event", tag="impression", omit_defaults=True):
    """One served slate, with all that is needed to learn from it and to re-evaluate it later."""

    recommendation_id: str
    user: str  # user key, see sessions.user_key
    arm: str
    policy_version: int
    history: tuple[tuple[str, float], ...]  # (item, reward), oldest first: raw, never an embedding
    items: tuple[str, ...]  # slot order
    propensities: tuple[float, ...]  # each given the slots above it
    candidate_hash: str  # of the set of items that could have been shown
    masked: tuple[str, ...] = ()  # seen or excluded, so not available to this request
    candidates: tuple[str, ...] | None = None  # the only ones allowed, when the request or a filter said so
    weight: float = 0.0  # share of the learned policy in the mixture
    entropy: float = 0.0  # of the behaviour policy, nats
    shadow: Shadow | None = None
    allowed: bytes | None = None  # instead of `candidates`, where filters said so, see `encode_mask`
    pinned: tuple[int, ...] = ()  # slots that a rule filled and no policy chose: their propensity is 1
    placement: str | None = None  # where it was shown
    context: dict[str, ContextValue] = {}  # of the request and, as `user.name`, of its user


class Feedback(msgspec.Struct, frozen=True, tag_field="event", tag="feedback", omit_defaults=True):
    """A user's response to one item; without `recommendation_id` it is organic: a like then teaches beside items drawn
    at random, see `policy.organic`."""

    event_id: str
    user: str
    item_id: str
    reward: float
    recommendation_id: str | None = None
    type: str | None = None
    occurred_at: float | None = None  # unix seconds, as the client says
    explicit: bool = False  # replaces what the user said of the item before, see `sessions.joined`
    ends: bool = False  # its visit has come to a good end: that nothing follows is no fault of the slate
    undo: bool = False  # takes back what the user said of the item; the reward is 0

    def at(self, heard_s: float) -> float:
        """Return when it happened, in unix seconds to the millisecond; not later than it was received."""
        return heard_s if self.occurred_at is None else min(round(self.occurred_at, 3), heard_s)


class ItemChanged(msgspec.Struct, frozen=True, tag_field="event", tag="item", omit_defaults=True):
    """An item was put, hidden or deleted; new items take the next index of the catalogue."""

    item_id: str
    embedding: bytes  # float16 [TEXT_DIM]
    hidden: bool = False
    deleted: bool = False
    available_from: float | None = None  # unix seconds
    available_until: float | None = None


class UserErased(msgspec.Struct, frozen=True, tag_field="event", tag="erased"):
    """A user asked to be forgotten."""

    user: str


class VisitorJoined(msgspec.Struct, frozen=True, tag_field="event", tag="joined"):
    """A visitor without an account turned out to be a user."""

    visitor: str
    user: str


Event = Impression | Feedback | ItemChanged | UserErased | VisitorJoined

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event as one msgpack map."""
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """Read an event.

    Raises:
        EventError: the bytes are not an event; the message names the field.
    """
    try:
        event = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"not an event: {error}") from None
    if isinstance(event, Impression):
        if len(event.items) != len(event.propensities):
            raise EventError("impression: `items` and `propensities` differ in length")
        if not all(0.0 < p <= _ABOUT_ONE for p in event.propensities):
            raise EventError("impression: `propensities` must be above 0 and at most 1")
        if event.allowed is not None:
            decode_mask(event.allowed, 0)
        if event.shadow is not None:
            _check_shadow(event.shadow, len(event.items))
        if not all(math.isfinite(reward) for _, reward in event.history):
            raise EventError("impression: rewards in `history` must be finite")
        if not all(math.isfinite(value) for value in event.context.values() if isinstance(value, float)):
            raise EventError("impression: numbers in `context` must be finite")
    elif isinstance(event, Feedback) and not math.isfinite(event.reward):
        raise EventError("feedback: `reward` must be finite")
    return event


def _check_shadow(shadow: Shadow, n_items: int) -> None:
    if len(shadow.propensities) != n_items:
        raise EventError("impression: `shadow.propensities` and `items` differ in length")
    if not all(0.0 <= p <= _ABOUT_ONE for p in shadow.propensities):
        raise EventError("impression: `shadow.propensities` must be from 0 to 1")


def encode_mask(mask: Mask) -> bytes:
    """A set of items by their places in the catalogue, from `mask` [A]."""
    return zlib.compress(np.packbits(mask, bitorder="little").tobytes(), 1)


def decode_mask(data: bytes, n_items: int) -> Mask:
    """[n_items] what `encode_mask` encoded; items that it does not know are not in it.

    Raises:
        EventError: the bytes are not a mask.
    """
    try:
        packed = zlib.decompress(data)
    except zlib.error:
        raise EventError("impression: `allowed` cannot be read") from None
    mask = np.zeros(n_items, np.bool_)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")[:n_items]
    mask[: len(bits)] = bits
    return mask


def candidate_hash(available: Mask) -> str:
    """A name for the set of items that could be shown, `available` [A]."""
    return hashlib.blake2b(np.packbits(available).tobytes(), digest_size=8).hexdigest()
