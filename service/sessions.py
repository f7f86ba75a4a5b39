"""What a user did lately and which items they have seen, in two capped lists in Redis that expire."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import redis.asyncio as aioredis

from service.keys import Keys

_entry = msgspec.msgpack.Decoder(tuple[str, float])


@dataclass(frozen=True)
class Session:
    """A user's session so far."""

    history: tuple[tuple[str, float], ...]  # (item, reward), oldest first
    seen: tuple[str, ...]  # shown or used, oldest first
    catalogue_seq: int  # the catalogue's last change, read in the same round trip


def user_key(user_id: str | None, session_id: str | None) -> str:
    """The name a user goes by in keys and events; user and session ids do not collide."""
    return f"u:{user_id}" if user_id is not None else f"s:{session_id}"


def share_of(user: str, salt: str) -> float:
    """A number in [0, 1) that is fixed for this user: assigns traffic deterministically, evenly and without state."""
    digest = hashlib.blake2b(f"{salt}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def encode_interaction(item_id: str, reward: float) -> bytes:
    """One entry of the history list."""
    return msgspec.msgpack.encode((item_id, reward))


def decode_history(entries: list[bytes]) -> tuple[tuple[str, float], ...]:
    """The history list; entries that are not ours are left out."""
    history = []
    for entry in entries:
        try:
            item_id, reward = _entry.decode(entry)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if math.isfinite(reward):
            history.append((item_id, reward))
    return tuple(history)


# KEYS: the catalogue's sequence, then for each user: history, seen. Returns the sequence, then what these keys hold;
# one that is no list holds nothing.
_LOAD = """
local found = {redis.call('GET', KEYS[1])}
for i = 2, #KEYS do
  local list = redis.pcall('LRANGE', KEYS[i], 0, -1)
  found[i] = list.err and {} or list
end
return found
"""


class SessionStore:
    """Sessions in Redis, for reading."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._keys, self._load = keys, redis.register_script(_LOAD)

    async def load(self, users: Sequence[str]) -> list[Session]:
        """Users' sessions in one round trip; an unknown user has an empty one."""
        names = [self._keys.item_seq]
        for user in users:
            names += [self._keys.history(user), self._keys.seen(user)]
        found = await self._load(keys=names)
        seq = int(found[0] or 0)
        return [
            Session(
                history=decode_history(history),
                seen=tuple([item.decode(errors="replace") for item in seen]),
                catalogue_seq=seq,
            )
            for history, seen in zip(found[1::2], found[2::2], strict=True)
        ]


async def erase(redis: aioredis.Redis, keys: Keys, user: str) -> bool:
    """Forget a user's session; says whether there was one."""
    return bool(await redis.delete(keys.history(user), keys.seen(user)))
