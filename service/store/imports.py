"""Responses of earlier times, made part of users' sessions: as if they had come when they did, and nothing is logged.

The same twice changes nothing, and what a session has of later stays: see `lua/import_sessions.lua`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import redis as syncredis

from service.settings import Settings
from service.store import sessions
from service.store.keys import Keys
from service.store.scripts import script

IMPORT = script("import_sessions", "session")


@dataclass(frozen=True)
class PastResponse:
    """A user's response to an item, combined with all earlier ones in `sessions.joined`'s way."""

    item_id: str
    place: int  # in the catalogue
    reward: float
    at: float  # unix seconds
    explicit: bool  # it replaces what was known of earlier


@dataclass(frozen=True)
class Past:
    """What is known of a user: responses; places of items that they saw without one, and when (unix seconds); places
    of those with a response of a feedback type. All are oldest first."""

    user: str  # user key, see `sessions.user_key`
    responses: Sequence[PastResponse]
    saw: Sequence[tuple[int, float]]
    by_type: Mapping[str, Sequence[int]] = field(default_factory=dict)


class Importer:
    """Adds to sessions in Redis."""

    def __init__(self, redis: syncredis.Redis, keys: Keys, settings: Settings) -> None:
        opinions = {reward for kind, reward in settings.rewards.items() if settings.is_explicit(kind, reward)}
        packed = b"".join(struct.pack("<f", reward) for reward in sorted(opinions))
        self._limits = [settings.history_length, settings.seen_limit, settings.session_ttl_s, packed]
        self._keys, self._script = keys, redis.register_script(IMPORT)

    def add(self, pasts: Sequence[Past]) -> list[bool]:
        """Add to the sessions of several users, all at once; says whose changed.

        Raises:
            redis.RedisError: Redis does not answer, or has no room; then none has changed, or, without an answer, all
                may have.
        """
        names, args = [self._keys.popularity], [*self._limits]
        for past in pasts:
            names.append(self._keys.session(past.user))
            saw = b"".join([sessions.encode_seen([place], at) for place, at in past.saw])
            args += [len(past.responses), len(past.by_type), saw]
            for one in past.responses:
                entry = sessions.encode_response(one.place, one.reward, one.at)
                args += [entry, "1" if one.explicit else "0", one.item_id]
            for name, places in past.by_type.items():
                args += [name, sessions.encode_places(places)]
        return [bool(changed) for changed in self._script(keys=names, args=args)]
