"""What the same users bought: counts of users by pairs of items, kept when feedback of a type that ends a visit comes.

Each new item of a user is counted beside the latest thirty others of its type, so that a purchase costs some dozen
steps. An item keeps the others with most users: once it has more than 120 they are cut to 60, so that a newer pair can
still grow. That is a kilobyte for an item that is bought.
"""

from __future__ import annotations

import redis.asyncio as aioredis

from service.settings import Settings
from service.store.keys import Keys

FEWEST_USERS = 2  # of a pair that is told of: one user's purchases are nobody else's business
_SHRINKAGE = 10.0  # as if each item had so many users more
_READ = 1_000


def ending_types(settings: Settings) -> list[str]:
    """The feedback types that count."""
    return [name for name in settings.rewards if settings.ends_visit(name)]


def as_argument(settings: Settings) -> str:
    """The same as scripts take them."""
    return "".join(["\n", *[f"{name}\n" for name in ending_types(settings)]])


class Together:
    """Counts in Redis."""

    def __init__(self, redis: aioredis.Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys

    async def beside(self, place: int) -> list[tuple[int, float]]:
        """Items (by place) that at least two users of an item had, too, and a score, best first: the shrunk cosine
        n_ab / sqrt((n_a + 10) (n_b + 10)) of the numbers of users of both and of each."""
        prefix = self._keys.together
        found = await self._redis.zrevrangebyscore(
            f"{prefix}{place}", "+inf", FEWEST_USERS, 0, _READ, withscores=True, score_cast_func=float
        )
        if not found:
            return []
        users = await self._redis.hmget(f"{prefix}users", [str(place), *[other.decode() for other, _ in found]])
        own, *theirs = [max(0, int(count or 0)) + _SHRINKAGE for count in users]
        scored = [(int(other), both / (own * each) ** 0.5) for (other, both), each in zip(found, theirs, strict=True)]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))
