"""One worker at a time: a lease in Redis with a fencing token.

The token is a counter that each new holder raises. Whoever finds a higher one than their own has been replaced: their
writes are refused (`write`), and their checkpoints are older by name (`checkpoint`), so a worker that was paused for as
long as one likes and wakes up beside its successor changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import redis as syncredis

from service.store.keys import Keys
from service.store.scripts import script

Pipeline = Any  # redis-py's, which has no types

ACQUIRE, RELEASE = script("acquire_lease"), script("release_lease")


class Fenced(Exception):
    """Another worker has taken over."""


class Lease:
    """The right to learn from one log."""

    def __init__(self, redis: syncredis.Redis, keys: Keys, ttl_s: float) -> None:
        """A holder that does not renew within `ttl_s` may be replaced."""
        self._redis, self._keys, self._ttl_ms = redis, keys, int(ttl_s * 1000)
        self._acquire = redis.register_script(ACQUIRE)
        self._lock = threading.Lock()  # one thread works, another renews
        self.token: int | None = None

    def acquire(self) -> bool:
        """Take the lease if nobody else holds it; says whether it is ours.

        Whoever lost it to nobody (a pause of longer than its time) has their token back; else it is a new one.
        """
        with self._lock:
            self.token = self._ask() or None
            return self.token is not None

    def renew(self) -> None:
        """Keep the lease.

        Raises:
            Fenced: it is another's now, or was in between.
        """
        with self._lock:
            if self._ask() != self.token:
                self.token = None
                raise Fenced

    def _ask(self) -> int:
        own = "" if self.token is None else str(self.token)
        return int(self._acquire(keys=[self._keys.lease, self._keys.fence], args=[self._ttl_ms, own]))

    def write(self, fill: Callable[[Pipeline], object]) -> list[Any]:
        """Carry out what `fill` puts into a transaction, unless another worker has taken over; returns the answers.

        Raises:
            Fenced: another has; nothing was written.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(self._keys.fence)
            if pipe.get(self._keys.fence) != str(self.token).encode():
                raise Fenced
            pipe.multi()
            fill(pipe)
            try:
                answers: list[Any] = pipe.execute()
            except syncredis.WatchError:
                raise Fenced from None
            return answers

    def release(self) -> None:
        """Let a successor start at once."""
        with self._lock:
            if self.token is not None:
                self._redis.eval(RELEASE, 1, self._keys.lease, str(self.token))
                self.token = None
