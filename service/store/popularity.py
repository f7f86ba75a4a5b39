"""How many positive responses items had, since ever and in the last days (UTC)."""

from __future__ import annotations

import time
from collections.abc import Sequence

import redis.asyncio as aioredis

from service.store.keys import Keys

DAYS_KEPT = 35
MOST_DAYS = 28  # that can be asked for
_BEFORE = 4  # windows that a trend is compared with, as far as they are kept

Counts = list[tuple[str, float]]


def today() -> int:
    """Number of the day since 1970."""
    return int(time.time() // 86_400)


class Popularity:
    """Counts of positive responses in Redis."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys

    async def most(self, n: int, days: int | None = None) -> Counts:
        """The `n` items with most, first the one with most: in the last `days`, today among them, or since ever."""
        if days is None:
            ranked = await self._redis.zrevrange(self._keys.popularity, 0, n - 1, withscores=True)
            return [(item.decode(), float(count)) for item, count in ranked]
        counts = await self._counts(range(today() - days + 1, today() + 1))
        return sorted(((item, count) for item, count in counts.items() if count > 0), key=_order)[:n]

    async def trending(self, n: int, days: int) -> Counts:
        """The `n` items that had more in the last `days` than in those before leads to expect, the largest surprise
        first: (count - expected) / sqrt(expected + 1), in standard deviations of a count that came by chance."""
        first = today() - days + 1
        before = min(_BEFORE * days, DAYS_KEPT - days)
        now = await self._counts(range(first, today() + 1))
        usual = await self._counts(range(first - before, first))
        scores = []
        for item, count in now.items():
            expected = max(0.0, usual.get(item, 0.0)) * days / before
            scores.append((item, (count - expected) / (expected + 1) ** 0.5))
        return sorted(((item, score) for item, score in scores if score > 0), key=_order)[:n]

    async def _counts(self, days: Sequence[int]) -> dict[str, float]:
        ranked = await self._redis.zunion([self._keys.popularity_of(day) for day in days], withscores=True)
        return {item.decode(): float(count) for item, count in ranked}


def _order(counted: tuple[str, float]) -> tuple[float, str]:
    return -counted[1], counted[0]
