"""Lag: the time by which the worker is behind the log."""

from __future__ import annotations

import asyncio
import logging
import math
import time

import redis.asyncio as aioredis
from redis.exceptions import RedisError, ResponseError

from service.settings import Settings
from service.store.event_log import START, entry_ms
from service.store.keys import Keys
from service.store.worker_report import decode_report

log = logging.getLogger(__name__)

_LASTING_S = 2.0  # a clock that jumps ahead makes a lag that is gone with the worker's next report


class Lag:
    """Event time between the log's last entry and the last one that the worker took in."""

    def __init__(self, redis: aioredis.Redis, keys: Keys, settings: Settings) -> None:
        self._redis, self._keys, self._settings = redis, keys, settings
        self.seconds = 0.0
        self._too_far_since = math.inf

    @property
    def too_far(self) -> bool:
        """True while the worker has been further behind than the settings allow for some time."""
        return time.monotonic() - self._too_far_since > _LASTING_S

    async def refresh(self) -> None:
        """Look once.

        Raises:
            RedisError: Redis does not answer.
        """
        data = await self._redis.get(self._keys.worker)
        try:
            stream = await self._redis.xinfo_stream(self._keys.events)
        except ResponseError:  # no event yet
            self.seconds = 0.0
            return
        last = entry_ms(stream["last-generated-id"].decode())
        report = decode_report(data) if data else None
        cursor = report.cursor if report is not None else START
        if cursor == START:  # nothing was ever learned: what waits begins with the first entry
            first = stream["first-entry"]
            cursor = first[0].decode() if first else stream["last-generated-id"].decode()
        self.seconds = max(0, last - entry_ms(cursor)) / 1000

    def _judge(self) -> None:
        limit = self._settings.max_lag_s
        if limit is None or self.seconds <= limit:
            self._too_far_since = math.inf
        else:
            self._too_far_since = min(self._too_far_since, time.monotonic())

    async def follow(self) -> None:
        """Refresh for ever; in an outage the last value stands."""
        while True:
            try:
                was = self.too_far
                await self.refresh()
                self._judge()
                if self.too_far != was:
                    log.warning("the learner is %.0f s behind%s", self.seconds, "" if was else "; refusing feedback")
            except (RedisError, OSError):
                pass
            except Exception:  # a report that makes no sense must not end this: later ones will
                log.exception("how far the learner is cannot be told")
            await asyncio.sleep(self._settings.refresh_interval_s)
