"""The event log: one Redis stream that the API appends to and the worker reads from its cursor.

What must happen together happens in one Lua script: a feedback event is deduplicated, logged and added to the session,
or none of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import redis as syncredis
import redis.asyncio as aioredis

from service.settings import Settings
from service.store import events, sessions
from service.store.events import Event, Feedback, Impression, VisitorJoined
from service.store.keys import Keys
from service.store.lease import Lease
from service.store.popularity import DAYS_KEPT, today
from service.store.scripts import script

START = "0-0"

FEEDBACK = script("append_feedback", "session")
IMPRESSIONS = script("append_impressions", "session", "impression")
REPLAY = script("replay_dead_letter")

_PAGE = 1_000


class DeadLetter(NamedTuple):
    """An entry of the log that could not be used."""

    entry_id: str
    payload: bytes
    reason: str


class EventLog:
    """The API's end of the log."""

    def __init__(self, redis: aioredis.Redis, quick: aioredis.Redis, keys: Keys, settings: Settings) -> None:
        """`quick` is the client of /recommend, which gives up early."""
        self._redis, self._keys, self._settings = redis, keys, settings
        self._impressions = quick.register_script(IMPRESSIONS)
        self._feedback = redis.register_script(FEEDBACK)
        self._replay = redis.register_script(REPLAY)

    async def append_impressions(self, shown: Sequence[tuple[Impression, Sequence[int]]]) -> Sequence[None]:
        """Log slates and remember their items, given by their places in the catalogue too, as seen; all at once."""
        names = [self._keys.events]
        args: list[str | bytes | int] = [
            self._settings.history_length,
            self._settings.seen_limit,
            self._settings.session_ttl_s,
        ]
        for impression, places in shown:
            names.append(self._keys.session(impression.user))
            args += [events.encode(impression), sessions.encode_seen(places, time.time())]
        await self._impressions(keys=names, args=args)
        return [None] * len(shown)

    async def append_feedback(
        self,
        feedback: Sequence[Feedback],
        places: Sequence[int],
        marks: Sequence[str] | None = None,
        remembered: bool = True,
    ) -> list[bool]:
        """Log feedback and, if it is to be `remembered`, update the sessions, all at once; False where the event_id was
        known already.

        `places` of the events' items in the catalogue; `marks` are keys that take the place of those of the event ids,
        and last at least for the reward window.
        """
        settings = self._settings
        keys = [self._keys.events, self._keys.popularity, self._keys.popularity_of(today())]
        window_s = math.ceil(settings.reward_window_s) if marks is not None else 0
        args: list[str | bytes | int] = [
            max(settings.dedupe_ttl_s, window_s),
            settings.history_length,
            settings.seen_limit,
            settings.session_ttl_s,
            DAYS_KEPT * 86_400,
        ]
        if marks is None:
            marks = [self._keys.event(event.user, event.event_id) for event in feedback]
        for event, place, mark in zip(feedback, places, marks, strict=True):
            keys += [mark, self._keys.session(event.user)]
            kind = "undo" if event.undo else "explicit" if event.explicit else "implicit"
            when = "" if event.occurred_at is None else str(round(event.occurred_at * 1000))
            args += [events.encode(event), sessions.encode_reaction(place, event.reward), when, event.item_id]
            args += [kind if remembered else "", event.type or ""]
        return [bool(accepted) for accepted in await self._feedback(keys=keys, args=args)]

    async def append(self, event: Event) -> None:
        """Log any event."""
        await self._redis.xadd(self._keys.events, {events.FIELD: events.encode(event)})

    async def dead_letters(self, after: str, count: int) -> list[DeadLetter]:
        """Up to `count` unusable entries after the id `after`, oldest first."""
        entries = await self._redis.xrange(self._keys.dead, min=f"({after}", count=count)
        return [
            DeadLetter(entry_id.decode(), fields.get(events.FIELD, b""), fields.get(b"reason", b"").decode())
            for entry_id, fields in entries
        ]

    async def latest(self, count: int) -> list[tuple[str, bytes]]:
        """The log's last `count` entries as (id, payload), newest first."""
        entries = await self._redis.xrevrange(self._keys.events, count=count)
        return [(entry_id.decode(), fields.get(events.FIELD, b"")) for entry_id, fields in entries]

    async def replay(self, entry_id: str) -> str | None:
        """Move an unusable entry from the dead letters to the log's end; returns its new id, None if there is none."""
        new = await self._replay(keys=[self._keys.dead, self._keys.events], args=[entry_id])
        return new.decode() if new else None

    async def discard(self, entry_id: str) -> bool:
        """Delete an unusable entry; says whether it was there."""
        return bool(await self._redis.xdel(self._keys.dead, entry_id))

    async def erase(self, user: str) -> dict[str, int]:
        """Delete a user's impressions and feedback from the log and from what was set aside; returns how many."""
        removed = {"impressions": 0, "feedback": 0, "dead_letters": 0}
        for key in (self._keys.events, self._keys.dead):
            after = START
            while entries := await self._redis.xrange(key, min=f"({after}", count=_PAGE):
                after = entries[-1][0].decode()
                kinds = {entry_id: _whose(fields.get(events.FIELD, b""), user) for entry_id, fields in entries}
                theirs = [entry_id for entry_id, kind in kinds.items() if kind is not None]
                if theirs:
                    await self._redis.xdel(key, *theirs)
                for kind in filter(removed.__contains__, kinds.values()):
                    removed["dead_letters" if key == self._keys.dead else str(kind)] += 1
        return removed


def _whose(payload: bytes, user: str) -> str | None:
    """Name the kind of this user's entry, None for another's; an unreadable one is theirs if it has their key."""
    if user.encode() not in payload:
        return None
    try:
        event = events.decode(payload)
    except events.EventError:
        return "feedback"
    if isinstance(event, VisitorJoined) and user in (event.user, event.visitor):
        return "joined"
    if isinstance(event, Impression | Feedback) and event.user == user:
        return "impressions" if isinstance(event, Impression) else "feedback"
    return None


def entry_ms(entry_id: str) -> int:
    """The server's clock when an entry was appended, unix milliseconds: the first half of its id."""
    return int(entry_id.split("-", 1)[0])


def read(redis: syncredis.Redis, keys: Keys, cursor: str, count: int, block_ms: int) -> list[tuple[str, bytes]]:
    """Up to `count` entries after `cursor` as (id, payload), oldest first; waits up to `block_ms` for the first."""
    answer = redis.xread({keys.events: cursor}, count=count, block=block_ms)
    streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer or []]
    return [(entry_id.decode(), fields.get(events.FIELD, b"")) for entries in streams for entry_id, fields in entries]


def order(entry_id: str) -> tuple[int, int]:
    """An entry's id as numbers, which sort as the log does."""
    ms, _, serial = entry_id.partition("-")
    return int(ms), int(serial)


def set_aside(lease: Lease, keys: Keys, entry_id: str, payload: bytes, reason: str, limit: int) -> None:
    """Keep an entry that could not be used, under its own id so that setting it aside twice keeps one.

    Raises:
        Fenced: another worker has taken over.
    """
    fields = {"e": payload, "reason": reason}
    try:
        lease.write(lambda pipe: pipe.xadd(keys.dead, fields, id=entry_id, maxlen=limit, approximate=True))
    except syncredis.ResponseError as error:
        if "equal or smaller" not in str(error):
            raise
