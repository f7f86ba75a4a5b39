"""Sessions: what a user did lately and which items they have seen, in one capped string in Redis that expires.

    255 (1 byte), number of responses (1 byte), then for each: item (3 bytes), reward (float32), when (6 bytes, unix
    milliseconds); then other seen items (3 bytes each)

Both are oldest first, integers little-endian. An item is its place in the catalogue, which never changes: twenty
responses and ten other items that were shown are 292 bytes, less than their ids in lists take, and no id is looked up.
An item has one place in the history, with what its responses come to (`joined`) and at the time of the latest. Of too
many the weakest goes, the oldest of these first, but for the latest of all: views do not push out a purchase. Its item
goes to the others, as the oldest.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import redis.asyncio as aioredis

from service.settings import Settings
from service.store import events
from service.store.events import VisitorJoined
from service.store.keys import Keys
from service.store.scripts import script

PLACE_BYTES, RESPONSE_BYTES = 3, 13
MAX_ITEMS = 2 ** (8 * PLACE_BYTES)
_FORMAT = 255  # older sessions have their number of responses here, of at most 200, and 7 bytes each, without a time
_OLD_BYTES = 7
_response = struct.Struct("<HBfIH")  # item, two parts; reward; when, two parts


class Reaction(NamedTuple):
    """A user's responses to an item, combined: the reward, and when the latest of them was (unix seconds)."""

    reward: float
    at: float


@dataclass(frozen=True)
class Session:
    """A user's session so far; items by their place in the catalogue."""

    history: tuple[tuple[int, float], ...]  # (item, reward), oldest first
    # Shown or used, each kind oldest first: without a response, with one, and with one and shown again since.
    seen: tuple[int, ...]
    catalogue_seq: int  # the catalogue's last change, read in the same round trip

    def named(self, ids: Sequence[str]) -> tuple[list[tuple[str, float]], list[str]]:
        """History and seen items by id; places that `ids` does not have are left out."""
        n = len(ids)
        history = [(ids[place], reward) for place, reward in self.history if place < n]
        return history, [ids[place] for place in self.seen if place < n]


def user_key(user_id: str | None, session_id: str | None) -> str:
    """The name a user goes by in keys and events; user and session ids do not collide."""
    return f"u:{user_id}" if user_id is not None else f"s:{session_id}"


def visitor_of(user_id: str | None, session_id: str | None) -> str | None:
    """The visitor that a user was until now, where both are named."""
    return user_key(None, session_id) if user_id is not None and session_id is not None else None


def is_visitor(user: str) -> bool:
    """Check that a user key is of a visitor without an account."""
    return user.startswith("s:")


def share_of(user: str, salt: str) -> float:
    """A number in [0, 1) that is fixed for this user: assigns traffic deterministically, evenly and without state."""
    digest = hashlib.blake2b(f"{salt}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def joined(known: Reaction | None, new: Reaction, explicit: bool = False) -> Reaction:
    """Combine a user's new response to an item with the earlier ones.

    One that is `explicit`, such as a rating or a no, replaces what was known of earlier. Otherwise the strongest
    counts, whether good or bad, and of equal ones the latest: a view is nothing after a purchase, nor after a dislike.
    """
    if known is None:
        return new
    is_later = new.at >= known.at
    stronger = abs(new.reward) - abs(known.reward)
    replaces = (explicit and is_later) or stronger > 0 or (stronger == 0 and is_later)
    return Reaction(new.reward if replaces else known.reward, max(known.at, new.at))


def encode_places(places: Sequence[int]) -> bytes:
    """Seen items, as they are appended.

    Raises:
        OverflowError: the catalogue has more than MAX_ITEMS items.
    """
    return b"".join([place.to_bytes(PLACE_BYTES, "little") for place in places])


def encode_reaction(place: int, reward: float) -> bytes:
    """First part of an entry of the history: the item's place and the reward."""
    return encode_places([place]) + struct.pack("<f", reward)


def encode_response(place: int, reward: float, at: float) -> bytes:
    """One entry of the history; `at` in unix seconds."""
    ms = min(max(0, round(at * 1000)), 2**48 - 1)
    return encode_reaction(place, reward) + struct.pack("<IH", ms & 0xFFFFFFFF, ms >> 32)


def encode(history: Sequence[tuple[int, float, float]], others: Sequence[int]) -> bytes:
    """A whole session of at most 255 responses (item, reward, when); `others` are seen items that have none."""
    entries = b"".join([encode_response(*past) for past in history])
    return bytes([_FORMAT, len(history)]) + entries + encode_places(others)


def decode(data: bytes, catalogue_seq: int = 0) -> Session:
    """Inverse of `encode`; an empty session if the data are not one, and without rewards that are not finite."""
    entries, rest = _parts(data)
    history = [
        (low | high << 16, _short(reward))
        for low, high, reward, _, _ in _response.iter_unpack(entries)
        if math.isfinite(reward)
    ]
    others = [int.from_bytes(rest[at : at + PLACE_BYTES], "little") for at in range(0, len(rest), PLACE_BYTES)]
    responded = [place for place, _ in history]
    seen = [*others, *responded]
    if again := set(others).intersection(responded):
        seen = [
            *[place for place in others if place not in again],
            *[place for place in responded if place not in again],
            *[place for place in others if place in again],
        ]
    return Session(tuple(history), tuple(seen), catalogue_seq)


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """Split a session into responses and other items; both are empty if it is not one. Older releases' get no time."""
    if len(data) >= 2 and data[0] == _FORMAT:
        end = 2 + RESPONSE_BYTES * data[1]
        return (data[2:end], data[end:]) if _is_whole(data, end) else (b"", b"")
    end = 1 + _OLD_BYTES * data[0] if data else 1
    if not _is_whole(data, end):
        return b"", b""
    return b"".join([data[at : at + _OLD_BYTES] + bytes(6) for at in range(1, end, _OLD_BYTES)]), data[end:]


def _is_whole(data: bytes, end: int) -> bool:
    return len(data) >= end and (len(data) - end) % PLACE_BYTES == 0


@functools.lru_cache(4096)
def _short(reward: float) -> float:
    """The shortest number that float32 stores like this: 0.2 and not 0.20000000298."""
    return float(str(np.float32(reward)))


LOAD, JOIN = script("load_sessions"), script("join_session", "session")


class SessionStore:
    """Sessions in Redis."""

    def __init__(self, redis: aioredis.Redis, keys: Keys, settings: Settings) -> None:
        self._redis, self._keys, self._settings = redis, keys, settings
        self._load, self._join = redis.register_script(LOAD), redis.register_script(JOIN)

    async def load(self, users: Sequence[str]) -> list[Session]:
        """Users' sessions in one round trip; an unknown user has an empty one."""
        seq, *found = await self._load(keys=[self._keys.item_seq, *map(self._keys.session, users)])
        return [decode(data, int(seq or 0)) for data in found]

    async def join(self, visitor: str, user: str) -> bool:
        """Join a visitor's session to the session of the user that they turned out to be, and log it for the worker, at
        once. False, and nothing happens, where the visitor has no session, as after the first time."""
        keys, settings = self._keys, self._settings
        names = [keys.session(visitor), keys.session(user), keys.events, keys.visitors(user)]
        args: list[str | bytes | int] = [settings.history_length, settings.seen_limit, settings.session_ttl_s]
        kept_s = max(settings.session_ttl_s, settings.stream_retention_s)  # as long as the log knows of the visitor
        args += [events.encode(VisitorJoined(visitor, user)), visitor, kept_s]
        return bool(await self._join(keys=names, args=args))

    async def visitors(self, user: str) -> list[str]:
        """The visitors that turned out to be this user."""
        return sorted(visitor.decode() for visitor in await self._redis.smembers(self._keys.visitors(user)))

    async def erase(self, user: str) -> bool:
        """Forget a user's session; says whether there was one."""
        removed = await self._redis.delete(self._keys.session(user))
        await self._redis.delete(self._keys.visitors(user))
        return bool(removed)
