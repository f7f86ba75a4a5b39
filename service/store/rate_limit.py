"""A token bucket for each API key, in Redis for all processes together; in memory of this one while Redis is away.

Kept of a bucket is one number, the time at which it is full again: it holds burst - (full_at - now) * rate tokens.
Taking one moves that time by 1 / rate, and once it is past there is nothing to remember.
"""

from __future__ import annotations

import time

import redis.asyncio as aioredis
from redis.exceptions import RedisError

from service.store.keys import Keys
from service.store.scripts import script

# A double holds today's time to a quarter of a microsecond; less is no reason to refuse.
_ROUNDING_S = 1e-6

TAKE = script("take_token")


class RateLimiter:
    """Takes one token for each request."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._keys = keys
        self._take = redis.register_script(TAKE)
        self._full_at: dict[str, float] = {}

    async def wait_s(self, key_id: str, rate: float, burst: int) -> float:
        """Take a token of the key's bucket: 0 if there was one, else the seconds until there is."""
        try:
            return float(await self._take(keys=[self._keys.bucket(key_id)], args=[rate, burst, _ROUNDING_S]))
        except (RedisError, OSError):
            return self._wait_here_s(key_id, rate, burst)

    def _wait_here_s(self, key_id: str, rate: float, burst: int) -> float:
        now, capacity = time.monotonic(), burst / rate
        full_at = max(self._full_at.get(key_id, now), now) + 1 / rate
        wait = full_at - now - capacity
        if wait > _ROUNDING_S:
            return wait
        self._full_at[key_id] = full_at
        return 0.0
