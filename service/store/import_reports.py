"""Reports of `python -m service import` while it runs and after, for operators: the latest few, a hash in Redis."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import redis as syncredis
import redis.asyncio as aioredis
from msgspec import Meta

from service.store.keys import Keys

log = logging.getLogger(__name__)

_KEPT = 50
_EVERY_S = 1.0  # how often something is told at most while it runs
_TEXT = 500  # characters of a problem that are kept

State = Literal["reading", "writing", "done", "stopped", "failed"]
Count = Annotated[int, Meta(ge=0, le=2**53)]  # JSON's numbers have no end
Seconds = Annotated[float, Meta(ge=0, le=1e12)]


class ImportReport(msgspec.Struct, frozen=True):
    """What an import does, or has done."""

    import_id: str
    file: str  # its name without its folder
    started_at: Seconds  # unix, by Redis' clock as `told_at`
    told_at: Seconds
    state: State = "reading"
    rows: Count = 0  # of the file, read so far
    users: Count | None = None  # in all, once the file has been read
    interactions: Count = 0  # that were taken
    changed: Count = 0  # users whose histories changed so far
    same: Count = 0  # users whose histories had all of it
    left_out: tuple[str, ...] = ()  # why, and how many rows
    notes: tuple[str, ...] = ()  # what was recognised and assumed
    problem: str = ""  # why it failed


_decoder = msgspec.json.Decoder(ImportReport)


class Reporter:
    """Tells of one import."""

    def __init__(self, redis: syncredis.Redis, keys: Keys, file: str) -> None:
        self._redis, self._keys, self._told_at = redis, keys, 0.0
        now = self._now()
        self.report = ImportReport(f"{int(1000 * now):013d}-{secrets.token_hex(4)}", file, now, now)
        self.tell()
        told = sorted(self._redis.hkeys(self._keys.imports))  # ids begin with when
        if old := told[:-_KEPT]:
            self._redis.hdel(self._keys.imports, *old)

    def tell(self, **changes: object) -> None:
        """Change some of the report, and store it.

        Raises:
            redis.RedisError: Redis does not answer, or has no room.
        """
        self._told_at = time.monotonic()
        self.report = msgspec.structs.replace(self.report, told_at=self._now(), **changes)
        self._redis.hset(self._keys.imports, self.report.import_id, msgspec.json.encode(self.report))

    def tell_sometimes(self, **changes: object) -> None:
        """Change some of the report; it is stored if it was not for a second."""
        if time.monotonic() - self._told_at >= _EVERY_S:
            self.tell(**changes)
        else:
            self.report = msgspec.structs.replace(self.report, **changes)

    def _now(self) -> float:
        seconds, micros = self._redis.time()
        return float(seconds) + float(micros) / 1e6


@contextlib.contextmanager
def reported(redis: syncredis.Redis, keys: Keys, file: str) -> Iterator[Reporter]:
    """An import of `file`, which is done at the end; stopped if it is interrupted, failed if it raises something else.

    Raises:
        redis.RedisError: Redis does not answer, or has no room.
    """
    reporter = Reporter(redis, keys, file)
    try:
        yield reporter
    except BaseException as error:
        with contextlib.suppress(syncredis.RedisError):  # what went wrong first is what is told
            problem = reporter.report.problem or str(error)[:_TEXT] or type(error).__name__
            reporter.tell(
                state="stopped" if isinstance(error, KeyboardInterrupt) else "failed",
                problem="" if isinstance(error, KeyboardInterrupt) else problem,
            )
        raise
    reporter.tell(state="done")


async def read(redis: aioredis.Redis, keys: Keys) -> list[ImportReport]:
    """The latest reports, newest first; one that cannot be read is left out, with a line in the log."""
    stored = await redis.hgetall(keys.imports)
    found = []
    for data in stored.values():
        try:
            found.append(_decoder.decode(data))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            log.warning("the report of an import cannot be read: %s", error)
    return sorted(found, key=lambda report: report.import_id, reverse=True)
