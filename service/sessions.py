"""What a user did lately and which items they have seen: one capped string in Redis that expires.

    number of responses (1 byte), then for each: item (3 bytes), reward (float32); then other seen items (3 bytes each)

Both are oldest first, integers little-endian. An item is its place in the catalogue, which never changes: twenty
responses and ten other items that were shown are 171 bytes, a fraction of what their ids in lists take, and no id is
looked up. An item has one place in the history, that of its latest response, with what its responses come to
(`joined`). Of too many the weakest goes, the oldest of these first, but for the latest of all: views do not push out a
purchase. Its item goes to the others, as the oldest.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import redis.asyncio as aioredis

from service.keys import Keys

PLACE_BYTES, RESPONSE_BYTES = 3, 7
MAX_ITEMS = 2 ** (8 * PLACE_BYTES)


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


def share_of(user: str, salt: str) -> float:
    """A number in [0, 1) that is fixed for this user: assigns traffic deterministically, evenly and without state."""
    digest = hashlib.blake2b(f"{salt}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def joined(known: float | None, reward: float) -> float:
    """What several responses of a user to one item come to: the strongest (a click, then a purchase); but where
    somebody says no, or said no, the latest."""
    if known is None or reward == 0:
        return reward if known is None else known
    return reward if reward < 0 or known < 0 else max(known, reward)


def encode_places(places: Sequence[int]) -> bytes:
    """Seen items, as they are appended.

    Raises:
        OverflowError: the catalogue has more than MAX_ITEMS items.
    """
    return b"".join([place.to_bytes(PLACE_BYTES, "little") for place in places])


def encode_response(place: int, reward: float) -> bytes:
    """One entry of the history."""
    return encode_places([place]) + struct.pack("<f", reward)


def encode(history: Sequence[tuple[int, float]], others: Sequence[int]) -> bytes:
    """A whole session of at most 255 responses; `others` are seen items that have none."""
    return bytes([len(history)]) + b"".join(encode_response(*past) for past in history) + encode_places(others)


def decode(data: bytes, catalogue_seq: int = 0) -> Session:
    """What `encode` gave; an empty session if it is something else, and without rewards that are no numbers."""
    end = 1 + RESPONSE_BYTES * data[0] if data else 0
    if not data or len(data) < end or (len(data) - end) % PLACE_BYTES:
        return Session((), (), catalogue_seq)
    history = []
    for start in range(1, end, RESPONSE_BYTES):
        (reward,) = struct.unpack_from("<f", data, start + PLACE_BYTES)
        if math.isfinite(reward):
            history.append((int.from_bytes(data[start : start + PLACE_BYTES], "little"), _short(reward)))
    others = [int.from_bytes(data[at : at + PLACE_BYTES], "little") for at in range(end, len(data), PLACE_BYTES)]
    responded = [place for place, _ in history]
    seen = [*others, *responded]
    if again := set(others).intersection(responded):
        seen = [
            *[place for place in others if place not in again],
            *[place for place in responded if place not in again],
            *[place for place in others if place in again],
        ]
    return Session(tuple(history), tuple(seen), catalogue_seq)


@functools.lru_cache(4096)
def _short(reward: float) -> float:
    """The shortest number that float32 stores like this: 0.2 and not 0.20000000298."""
    return float(str(np.float32(reward)))


# Lua's side of `decode` and `encode`, for scripts that change a session.
LUA = f"""
local function load_session(key)
  local data = redis.pcall('GET', key)
  if type(data) ~= 'string' then return '', '' end
  local n = string.byte(data, 1) or 0
  local rest = #data - 1 - {RESPONSE_BYTES} * n
  if rest < 0 or rest % {PLACE_BYTES} ~= 0 then return '', '' end
  return string.sub(data, 2, 1 + {RESPONSE_BYTES} * n), string.sub(data, 2 + {RESPONSE_BYTES} * n)
end
local function find(items, place, width)
  local at = string.find(items, place, 1, true)
  while at and (at - 1) % width ~= 0 do at = string.find(items, place, at + 1, true) end
  return at
end
local function reward_of(entry) return (struct.unpack('<f', string.sub(entry, 1 + {PLACE_BYTES}, {RESPONSE_BYTES}))) end
local function add_response(history, entry)
  local place, known = string.sub(entry, 1, {PLACE_BYTES}), nil
  local at = find(history, place, {RESPONSE_BYTES})
  while at do  -- once, but for sessions of older releases
    known = string.sub(history, at, at + {RESPONSE_BYTES} - 1)
    history = string.sub(history, 1, at - 1) .. string.sub(history, at + {RESPONSE_BYTES})
    at = find(history, place, {RESPONSE_BYTES})
  end
  local reward = reward_of(entry)
  if known and (reward == 0 or (reward > 0 and reward_of(known) > reward)) then entry = known end
  return history .. entry
end
local function save_session(key, history, others, longest_history, longest_seen, ttl)
  while #history > {RESPONSE_BYTES} * longest_history do
    local weakest, least = 1, math.huge
    local last = #history - {RESPONSE_BYTES} + 1
    if reward_of(string.sub(history, last)) ~= 0 then last = last - {RESPONSE_BYTES} end
    for at = 1, last, {RESPONSE_BYTES} do
      local reward = math.abs(reward_of(string.sub(history, at, at + {RESPONSE_BYTES} - 1)))
      if reward < least then weakest, least = at, reward end
    end
    local place = string.sub(history, weakest, weakest + {PLACE_BYTES} - 1)
    history = string.sub(history, 1, weakest - 1) .. string.sub(history, weakest + {RESPONSE_BYTES})
    if not find(history, place, {RESPONSE_BYTES}) then others = place .. others end
  end
  others = string.sub(others, -{PLACE_BYTES} * longest_seen)
  redis.call('SET', key, string.char(#history / {RESPONSE_BYTES}) .. history .. others, 'EX', ttl)
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


class SessionStore:
    """Sessions in Redis, for reading."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._keys, self._load = keys, redis.register_script(_LOAD)

    async def load(self, users: Sequence[str]) -> list[Session]:
        """Users' sessions in one round trip; an unknown user has an empty one."""
        seq, *found = await self._load(keys=[self._keys.item_seq, *map(self._keys.session, users)])
        return [decode(data, int(seq or 0)) for data in found]


async def erase(redis: aioredis.Redis, keys: Keys, user: str) -> bool:
    """Forget a user's session; says whether there was one."""
    return bool(await redis.delete(keys.session(user)))
