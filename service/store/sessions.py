"""Sessions: what a user did lately and which items they have seen, in one capped string in Redis that expires.

    254 (1 byte), number of responses (1 byte), then for each: item (3 bytes), reward (float32), when (6 bytes, unix
    milliseconds); number of other seen items (2 bytes), then for each: item, when last (3 bytes, hours since 1970);
    then for each feedback type: length of its name (1 byte), name, number of items (2 bytes), items (3 bytes each)

All are oldest first, integers little-endian. An item is its place in the catalogue, which never changes: twenty
responses, ten of them purchases, and ten other items that were shown are 365 bytes, less than their ids in lists take,
and no id is looked up. An item has one place in the history, with what its responses come to (`joined`) and at the time
of the latest. Of too many the weakest goes, the oldest of these first, but for the latest of all: views do not push out
a purchase. Its item goes to the others, as the oldest. By feedback type the latest are kept, as many as other items.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec
import numpy as np
import redis.asyncio as aioredis
from redis.exceptions import WatchError

from service.policy.context import ContextValue, read_context
from service.settings import Settings
from service.store import events
from service.store.events import VisitorJoined
from service.store.keys import Keys
from service.store.scripts import script

PLACE_BYTES, SEEN_BYTES, RESPONSE_BYTES = 3, 6, 13
MAX_ITEMS = 2 ** (8 * PLACE_BYTES)
_FORMAT = 254
_UNTIMED = 255  # older sessions: other items have no time and there are no types
_OLD_BYTES = 7  # still older ones begin with their number of responses, of at most 200; each so long, without a time
_HOUR_S = 3600
_response = struct.Struct("<HBfIH")  # item, two parts; reward; when, two parts
_other = struct.Struct("<HBHB")  # item, two parts; when, two parts


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
    stored: bytes = field(default=b"", repr=False, compare=False)  # what `seen_since` and `by_type` look at
    features: dict[str, ContextValue] = field(default_factory=dict)  # of the user, read in the same round trip

    def named(self, ids: Sequence[str]) -> tuple[list[tuple[str, float]], list[str]]:
        """History and seen items by id; places that `ids` does not have are left out."""
        n = len(ids)
        history = [(ids[place], reward) for place, reward in self.history if place < n]
        return history, [ids[place] for place in self.seen if place < n]

    def seen_since(self, since_s: float) -> set[int]:
        """Places of the items that were shown or responded to at a time (unix seconds) or later. So do those count of
        which it is not known; what was shown is known to the hour, and counts until that is over."""
        entries, rest, _ = _parts(self.stored)
        timed = [(low | high << 16, late << 32 | at) for low, high, _, at, late in _response.iter_unpack(entries)]
        found = {place for place, ms in timed if ms == 0 or ms >= since_s * 1000}
        hours = [(low | high << 16, late << 16 | at) for low, high, at, late in _other.iter_unpack(rest)]
        return found | {place for place, hour in hours if hour == 0 or (hour + 1) * _HOUR_S > since_s}

    def by_type(self) -> dict[str, list[int]]:
        """Places of the items with a response of each feedback type that was not taken back, the oldest first."""
        return {name: _places(places) for name, places in _types(_parts(self.stored)[2]) or ()}

    def names_of(self, places: Collection[int], ids: Sequence[str]) -> list[str]:
        """Items by id; places that `ids` does not have are left out."""
        return [ids[place] for place in places if place < len(ids)]


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


def encode_seen(places: Sequence[int], at: float) -> bytes:
    """Other items, seen at a time (unix seconds), as they are appended."""
    when = min(max(0, int(at) // _HOUR_S), 2**24 - 1).to_bytes(3, "little")
    return b"".join([encode_places([place]) + when for place in places])


def encode_reaction(place: int, reward: float) -> bytes:
    """First part of an entry of the history: the item's place and the reward."""
    return encode_places([place]) + struct.pack("<f", reward)


def encode_response(place: int, reward: float, at: float) -> bytes:
    """One entry of the history; `at` in unix seconds."""
    ms = min(max(0, round(at * 1000)), 2**48 - 1)
    return encode_reaction(place, reward) + struct.pack("<IH", ms & 0xFFFFFFFF, ms >> 32)


def encode(
    history: Sequence[tuple[int, float, float]],
    others: Sequence[int],
    seen_at: float = 0.0,
    by_type: Mapping[str, Sequence[int]] | None = None,
) -> bytes:
    """A whole session of at most 255 responses (item, reward, when); `others` are seen items that have none, `seen_at`
    a time (unix seconds; 0: not known). `by_type` has the items of each feedback type."""
    parts = [bytes([_FORMAT, len(history)]), *[encode_response(*past) for past in history]]
    parts += [len(others).to_bytes(2, "little"), encode_seen(others, seen_at)]
    for name, places in (by_type or {}).items():
        parts += [bytes([len(name.encode())]), name.encode(), len(places).to_bytes(2, "little"), encode_places(places)]
    return b"".join(parts)


def decode(data: bytes, catalogue_seq: int = 0) -> Session:
    """Inverse of `encode`; an empty session if the data are not one, and without rewards that are not finite."""
    entries, rest, _ = _parts(data)
    history = [
        (low | high << 16, _short(reward))
        for low, high, reward, _, _ in _response.iter_unpack(entries)
        if math.isfinite(reward)
    ]
    others = [low | high << 16 for low, high, _, _ in _other.iter_unpack(rest)]
    responded = [place for place, _ in history]
    seen = [*others, *responded]
    if again := set(others).intersection(responded):
        seen = [
            *[place for place in others if place not in again],
            *[place for place in responded if place not in again],
            *[place for place in others if place in again],
        ]
    return Session(tuple(history), tuple(seen), catalogue_seq, data)


def _parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a session into responses, other items and those by type; all are empty if it is not one. What older
    releases had no time for has the time 0."""
    nothing = (b"", b"", b"")
    if not data:
        return nothing
    if data[0] != _FORMAT:
        return _parts_of_old(data) or nothing
    end = 2 + RESPONSE_BYTES * data[1] if len(data) > 1 else 2
    last = end + 2 + SEEN_BYTES * int.from_bytes(data[end : end + 2], "little")
    if len(data) < last or _types(data[last:]) is None:
        return nothing
    return data[2:end], data[end + 2 : last], data[last:]


def _parts_of_old(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    start, width, n = (2, RESPONSE_BYTES, data[1:2]) if data[0] == _UNTIMED else (1, _OLD_BYTES, data[:1])
    end = start + width * int.from_bytes(n)
    if len(data) < end or (len(data) - end) % PLACE_BYTES:
        return None
    entries = [data[at : at + width].ljust(RESPONSE_BYTES, b"\0") for at in range(start, end, width)]
    return b"".join(entries), encode_seen(_places(data[end:]), 0.0), b""


def _types(data: bytes) -> list[tuple[str, bytes]] | None:
    """The types of a session and the items of each, as they are stored; None if it is not whole."""
    found, at = [], 0
    while at < len(data):
        start = at + 1 + data[at]
        end = start + 2 + PLACE_BYTES * int.from_bytes(data[start : start + 2], "little")
        if len(data) < max(end, start + 2):
            return None
        found.append((data[at + 1 : start].decode(errors="replace"), data[start + 2 : end]))
        at = end
    return found


def _places(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + PLACE_BYTES], "little") for at in range(0, len(data), PLACE_BYTES)]


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
        keys = self._keys
        names = [name for user in users for name in (keys.session(user), keys.features(user))]
        seq, *found = await self._load(keys=[keys.item_seq, *names])
        sessions = [decode(data, int(seq or 0)) for data in found[::2]]
        if any(found[1::2]):
            pairs = zip(sessions, found[1::2], strict=True)
            sessions = [replace(one, features=(read_context(data) or {})) if data else one for one, data in pairs]
        return sessions

    async def put_features(self, user: str, features: Mapping[str, ContextValue]) -> bool:
        """Store what is known of a user instead of what was; False if nothing was."""
        name = self._keys.features(user)
        if not features:
            return bool(await self._redis.delete(name))
        return await self._redis.set(name, msgspec.json.encode(features), get=True) is not None

    async def change_features(
        self,
        user: str,
        changes: Mapping[str, ContextValue | None],
        check: Callable[[dict[str, ContextValue]], object],
    ) -> dict[str, ContextValue]:
        """Change some of a user's features, None taking one away, and return all of them; what others change at the
        same time stays changed. Nothing changes where `check` of all of them raises an error."""
        name = self._keys.features(user)
        async with self._redis.pipeline() as pipe:
            while True:
                try:
                    await pipe.watch(name)
                    known = read_context(await pipe.get(name) or b"") or {}
                    features = {of: value for of, value in {**known, **changes}.items() if value is not None}
                    check(features)
                    pipe.multi()
                    pipe.set(name, msgspec.json.encode(features)) if features else pipe.delete(name)
                    await pipe.execute()
                except WatchError:
                    continue
                return features

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

    async def erase_features(self, user: str) -> bool:
        """Forget what is known of a user; says whether anything was."""
        return bool(await self._redis.delete(self._keys.features(user)))
