"""Personalizer's events and the answer to each, remembered for as long as a reward may come.

An event is remembered and its impression logged by one script, so that whatever happens there are both or neither. The
impression of one whose activation is deferred waits in what is remembered; activating it takes it out and logs it,
again by that script, and only if nobody else has done so.
"""

from __future__ import annotations

import logging
import math
import time

import msgspec
import redis.asyncio as aioredis
from redis.commands.core import AsyncScript

from service.settings import Settings
from service.store import events, sessions
from service.store.events import Impression
from service.store.keys import Keys
from service.store.scripts import script

log = logging.getLogger(__name__)


class Ranked(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as remembered."""

    user: str  # user key, see sessions.user_key
    item: str
    recommendation_id: str
    impression: Impression | None = None  # as long as its activation is deferred


def is_alone(event_id: str, user: str) -> bool:
    """Check that the event named no user: then it is a visitor of its own, whose session is never needed again."""
    return user == sessions.user_key(None, event_id)


_decoder = msgspec.msgpack.Decoder(Ranked)
_encoder = msgspec.msgpack.Encoder()


def decode(data: bytes) -> Ranked | None:
    """An event as stored; None, with a line in the log, if it is none: it counts as forgotten."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        log.error("what an event was answered cannot be read, so it is forgotten: %s", error)
        return None


REMEMBER = script("remember_ranked", "session", "impression")


class RankedStore:
    """Remembered events in Redis."""

    def __init__(self, redis: aioredis.Redis, quick: aioredis.Redis, keys: Keys, settings: Settings) -> None:
        """`quick` is the client that gives up early, since there is an answer without Redis."""
        self._redis, self._keys, self._settings = redis, keys, settings
        self._remember, self._activate = quick.register_script(REMEMBER), redis.register_script(REMEMBER)

    async def get(self, event_id: str) -> bytes | None:
        """Return the stored bytes of an event, for `decode`; None if it is not remembered."""
        data: bytes | None = await self._redis.get(self._keys.ranked(event_id))
        return data

    async def erase(self, user: str) -> None:
        """Forget a user's events."""
        remembered = await self._redis.zrange(self._keys.ranked_of(user), 0, -1)
        names = [self._keys.ranked(event_id.decode()) for event_id in remembered]
        await self._redis.delete(*names, self._keys.ranked_of(user))

    async def remember(
        self, event_id: str, ranked: Ranked, shown: Impression, place: int, replaced: bytes = b""
    ) -> bytes | None:
        """Remember an event, and log what it showed unless `ranked` keeps that back; or say what is remembered already.

        `place` of the item in the catalogue; `replaced` is what may be remembered already.
        """
        logged = shown if ranked.impression is None else None
        return await self._swap(self._remember, event_id, ranked, logged, place, replaced)

    async def activate(self, event_id: str, held: bytes, ranked: Ranked, place: int) -> bytes | None:
        """Log the impression that `ranked`, stored as `held`, keeps back; or say what is remembered by now."""
        activated = msgspec.structs.replace(ranked, impression=None)
        return await self._swap(self._activate, event_id, activated, ranked.impression, place, held)

    async def _swap(
        self, script: AsyncScript, event_id: str, ranked: Ranked, logged: Impression | None, place: int, held: bytes
    ) -> bytes | None:
        settings = self._settings
        window_s = math.ceil(settings.reward_window_s)
        ttl_s = window_s if ranked.impression is None else 2 * window_s  # the window begins with the activation
        alone = is_alone(event_id, ranked.user)
        keys = self._keys
        names = [keys.ranked(event_id), keys.events, keys.session(ranked.user), keys.ranked_of(ranked.user)]
        args: list[str | bytes | int] = [settings.history_length, settings.seen_limit, settings.session_ttl_s]
        args += [held, _encoder.encode(ranked), ttl_s]
        args.append(events.encode(logged) if logged is not None else b"")
        args += [b"", ""] if alone else [sessions.encode_seen([place], time.time()), event_id]
        instead: bytes | None = await script(keys=names, args=args)
        return instead
