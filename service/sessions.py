"""What a user did lately and which items they have seen, in two capped lists in Redis that expire."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import ResponseError

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


async def load(redis: aioredis.Redis, keys: Keys, user: str) -> Session:
    """Read a user's session in one round trip; an unknown user has an empty one."""
    pipe = redis.pipeline(transaction=False)
    pipe.lrange(keys.history(user), 0, -1)
    pipe.lrange(keys.seen(user), 0, -1)
    pipe.get(keys.item_seq)
    answers: list[Any] = await pipe.execute(raise_on_error=False)
    history, seen, seq = (None if isinstance(a, ResponseError) else a for a in answers)
    return Session(
        history=decode_history(history or []),
        seen=tuple(item.decode(errors="replace") for item in seen or []),
        catalogue_seq=int(seq or 0),
    )


async def erase(redis: aioredis.Redis, keys: Keys, user: str) -> bool:
    """Forget a user's session; says whether there was one."""
    return bool(await redis.delete(keys.history(user), keys.seen(user)))
