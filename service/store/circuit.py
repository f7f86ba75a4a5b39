"""Circuit breaker for Redis: after it failed, nobody waits for it until the background watch finds it back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger(__name__)

# What says that Redis is away. A ResponseError (out of memory, read-only) is an answer: other commands may work.
AWAY = (RedisConnectionError, RedisTimeoutError, OSError)
_FAILURES = 3
_LASTING_S = 0.25  # a disk or a busy machine may hold Redis up for a moment
_TICKS = 8  # the turns of the event loop that a new connection and its greeting take


class CircuitOpen(RedisConnectionError):  # type: ignore[misc]
    """Redis was away a moment ago, so it was not asked."""


class Circuit:
    """Opens when nothing but failures came for a quarter of a second, three at least, or at once when the watch fails.

    Only the watch closes it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self.is_open = False
        self._clock = clock
        self._failures, self._failing_since = 0, 0.0

    def open(self, reason: str) -> None:
        """Open: from now on nobody but the watch calls Redis."""
        if not self.is_open:
            log.warning("Redis does not answer (%s); serving from memory", reason)
        self.is_open = True

    def close(self) -> None:
        """Close: Redis answered the watch."""
        if self.is_open:
            log.info("Redis answers again")
        self.is_open, self._failures = False, 0

    async def call(self, send: Any) -> Any:
        """Return the answer of `send`; raises CircuitOpen without calling it while Redis is away."""
        if self.is_open:
            raise CircuitOpen("Redis is away")
        try:
            answer = await send()
        except AWAY as error:
            if self._failures == 0:
                self._failing_since = self._clock()
            self._failures += 1
            if self._failures >= _FAILURES and self._clock() - self._failing_since >= _LASTING_S:
                self.open(type(error).__name__)
            raise
        self._failures = 0
        return answer


class Bounded(Retry):  # type: ignore[misc]
    """A time for each call, through a circuit if there is one, and no retries.

    redis-py connects and sends every command through its retry policy: one place to bound them all.
    """

    def __init__(self, timeout_s: float, circuit: Circuit | None) -> None:
        super().__init__(NoBackoff(), 0)
        self._timeout_s, self._circuit = timeout_s, circuit

    def __deepcopy__(self, memo: object) -> Bounded:
        return self  # each connection copies its policy; the circuit is one for all

    async def call_with_retry(self, do: Any, fail: Any, *args: Any, **options: Any) -> Any:
        """Call `do` as redis-py does, but within the time and through the circuit."""
        attempt = super().call_with_retry

        async def send() -> Any:
            return await attempt(lambda: self._in_time(do), fail, *args, **options)

        return await (self._circuit.call(send) if self._circuit else send())

    async def _in_time(self, do: Any) -> Any:
        """Wait in short ticks, so that an event loop that is busy with other requests looks at its sockets in between.

        redis-py's own time-out strikes when such a loop gets round to the clock, before it reads what has long come.
        """
        loop = asyncio.get_running_loop()
        tick_s = self._timeout_s / _TICKS
        try:
            async with asyncio.timeout(None) as limit:
                timer: asyncio.TimerHandle

                def wait(ticks: int) -> None:
                    nonlocal timer
                    if ticks == 0:
                        limit.reschedule(loop.time())
                    else:
                        timer = loop.call_later(tick_s, wait, ticks - 1)

                wait(_TICKS)
                try:
                    return await do()
                finally:
                    timer.cancel()
        except TimeoutError:
            raise RedisTimeoutError(f"no answer in {self._timeout_s:g} s") from None
        except RuntimeError as error:  # what uvloop says of a connection that the other side has reset
            raise RedisConnectionError(f"the connection was lost: {error}") from error
