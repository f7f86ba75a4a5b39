"""What a user did lately and which items they have seen: one capped string in Redis that expires.

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

PLACE_BYTES, RESPONSE_BYTES = 3, 13
MAX_ITEMS = 2 ** (8 * PLACE_BYTES)
_FORMAT = 255  # older sessions have their number of responses here, of at most 200, and 7 bytes each, without a time
_OLD_BYTES = 7
_response = struct.Struct("<HBfIH")  # item, two parts; reward; when, two parts


class Said(NamedTuple):
    """What a user's responses to an item come to, and when the latest of them was (unix seconds)."""

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
    """Whether a user key is of a visitor without an account."""
    return user.startswith("s:")


def share_of(user: str, salt: str) -> float:
    """A number in [0, 1) that is fixed for this user: assigns traffic deterministically, evenly and without state."""
    digest = hashlib.blake2b(f"{salt}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def joined(known: Said | None, new: Said, explicit: bool = False) -> Said:
    """What several responses of a user to one item come to, as they are heard of.

    One that is `explicit`, such as a rating or a no, replaces what was known of earlier. Otherwise the strongest
    counts, whether good or bad, and of equal ones the latest: a view is nothing after a purchase, nor after a dislike.
    """
    if known is None:
        return new
    is_later = new.at >= known.at
    stronger = abs(new.reward) - abs(known.reward)
    replaces = (explicit and is_later) or stronger > 0 or (stronger == 0 and is_later)
    return Said(new.reward if replaces else known.reward, max(known.at, new.at))


def encode_places(places: Sequence[int]) -> bytes:
    """Seen items, as they are appended.

    Raises:
        OverflowError: the catalogue has more than MAX_ITEMS items.
    """
    return b"".join([place.to_bytes(PLACE_BYTES, "little") for place in places])


def encode_said(place: int, reward: float) -> bytes:
    """The first part of an entry of the history: what, and how it was found."""
    return encode_places([place]) + struct.pack("<f", reward)


def encode_response(place: int, reward: float, at: float) -> bytes:
    """One entry of the history; `at` in unix seconds."""
    ms = min(max(0, round(at * 1000)), 2**48 - 1)
    return encode_said(place, reward) + struct.pack("<IH", ms & 0xFFFFFFFF, ms >> 32)


def encode(history: Sequence[tuple[int, float, float]], others: Sequence[int]) -> bytes:
    """A whole session of at most 255 responses (item, reward, when); `others` are seen items that have none."""
    entries = b"".join([encode_response(*past) for past in history])
    return bytes([_FORMAT, len(history)]) + entries + encode_places(others)


def decode(data: bytes, catalogue_seq: int = 0) -> Session:
    """What `encode` gave; an empty session if it is something else, and without rewards that are no numbers."""
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
    """Responses and other items, none where it is no session; those of older releases get no time."""
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


# Lua's side of `decode` and `encode`, and of `joined`, for scripts that change a session.
LUA = f"""
local function load_session(key)
  local data = redis.pcall('GET', key)
  if type(data) ~= 'string' then return '', '' end
  local first, n = string.byte(data, 1, 2)
  local start, width = 2, {RESPONSE_BYTES}
  if first ~= {_FORMAT} then start, width, n = 1, {_OLD_BYTES}, first or 0 end
  local rest = #data - start - width * (n or 0)
  if rest < 0 or rest % {PLACE_BYTES} ~= 0 then return '', '' end
  local history = string.sub(data, start + 1, start + width * n)
  if width == {_OLD_BYTES} then
    local entries = {{}}
    for at = 1, #history, width do
      entries[#entries + 1] = string.sub(history, at, at + width - 1) .. string.rep('\\0', 6)
    end
    history = table.concat(entries)
  end
  return history, string.sub(data, start + 1 + width * n)
end
local function find(items, place, width)
  local at = string.find(items, place, 1, true)
  while at and (at - 1) % width ~= 0 do at = string.find(items, place, at + 1, true) end
  return at
end
local function without(items, place, width)
  local at, found = find(items, place, width), nil
  while at do  -- once, but for sessions of older releases
    found = string.sub(items, at, at + width - 1)
    items = string.sub(items, 1, at - 1) .. string.sub(items, at + width)
    at = find(items, place, width)
  end
  return items, found
end
local function place_of(entry) return string.sub(entry, 1, {PLACE_BYTES}) end
local function said(entry) return struct.unpack('<fI6', string.sub(entry, 1 + {PLACE_BYTES}, {RESPONSE_BYTES})) end
-- Returns the history with the response in its place in time, and by how many likes of the item it has more.
local function add_response(history, entry, explicit)
  local place = place_of(entry)
  local rest, known = without(history, place, {RESPONSE_BYTES})
  local reward, at = said(entry)
  local before = 0
  if known then
    before = said(known)
    local _, known_at = said(known)
    local stronger = math.abs(reward) - math.abs(before)
    if not ((explicit and at >= known_at) or stronger > 0 or (stronger == 0 and at >= known_at)) then
      reward = before
    end
    at = math.max(at, known_at)
    entry = place .. struct.pack('<fI6', reward, at)
  end
  local after = #rest
  while after > 0 do
    local _, then_at = said(string.sub(rest, after - {RESPONSE_BYTES} + 1, after))
    if then_at <= at then break end
    after = after - {RESPONSE_BYTES}
  end
  local more = (reward > 0 and 1 or 0) - (before > 0 and 1 or 0)
  return string.sub(rest, 1, after) .. entry .. string.sub(rest, after + 1), more
end
local function save_session(key, history, others, longest_history, longest_seen, ttl)
  while #history > {RESPONSE_BYTES} * longest_history do
    local weakest, least = 1, math.huge
    local last = #history - {RESPONSE_BYTES} + 1
    if said(string.sub(history, last)) ~= 0 then last = last - {RESPONSE_BYTES} end
    for at = 1, last, {RESPONSE_BYTES} do
      local strength = math.abs((said(string.sub(history, at, at + {RESPONSE_BYTES} - 1))))
      if strength < least then weakest, least = at, strength end
    end
    local place = string.sub(history, weakest, weakest + {PLACE_BYTES} - 1)
    history = string.sub(history, 1, weakest - 1) .. string.sub(history, weakest + {RESPONSE_BYTES})
    if not find(history, place, {RESPONSE_BYTES}) then others = place .. others end
  end
  others = string.sub(others, -{PLACE_BYTES} * longest_seen)
  redis.call('SET', key, string.char({_FORMAT}, #history / {RESPONSE_BYTES}) .. history .. others, 'EX', ttl)
end
"""

# KEYS: the catalogue's sequence, then users' sessions. Returns what they hold; one that is no string holds nothing.
_LOAD = """
local found = {redis.call('GET', KEYS[1])}
for i = 2, #KEYS do
  local data = redis.pcall('GET', KEYS[i])
  found[i] = type(data) == 'string' and data or ''
end
return found
"""


# KEYS: the visitor's session, the user's, events, visitors that the user was. ARGV: history length, seen limit, session
# ttl (s), payload, the visitor, ttl of the visitors (s). Returns 1 if there was something to join.
_JOIN = (
    (
        LUA
        + """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local theirs, shown = load_session(KEYS[1])
local history, others = load_session(KEYS[2])
for at = 1, #theirs, RESPONSE do
  local entry = string.sub(theirs, at, at + RESPONSE - 1)
  history = add_response(history, entry, false)
  others = without(others, place_of(entry), PLACE)
end
for at = 1, #shown, PLACE do
  local place = string.sub(shown, at, at + PLACE - 1)
  others = without(others, place, PLACE) .. place
end
save_session(KEYS[2], history, others, ARGV[1], ARGV[2], ARGV[3])
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[3], '*', 'e', ARGV[4])
redis.call('SADD', KEYS[4], ARGV[5])
redis.call('EXPIRE', KEYS[4], ARGV[6])
return 1
"""
    )
    .replace("RESPONSE", str(RESPONSE_BYTES))
    .replace("PLACE", str(PLACE_BYTES))
)


class SessionStore:
    """Sessions in Redis."""

    def __init__(self, redis: aioredis.Redis, keys: Keys, settings: Settings) -> None:
        self._redis, self._keys, self._settings = redis, keys, settings
        self._load, self._join = redis.register_script(_LOAD), redis.register_script(_JOIN)

    async def load(self, users: Sequence[str]) -> list[Session]:
        """Users' sessions in one round trip; an unknown user has an empty one."""
        seq, *found = await self._load(keys=[self._keys.item_seq, *map(self._keys.session, users)])
        return [decode(data, int(seq or 0)) for data in found]

    async def join(self, visitor: str, user: str) -> bool:
        """A visitor turned out to be this user: the session becomes part of theirs, and the worker is told, at once.
        False, and nothing happens, where nothing is known of the visitor, as after the first time."""
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
