"""Counts of the worker from time to time, for the dashboard's curves: one capped stream in Redis.

Counts are sums since the log began, so the rewards between any two moments are a difference. They may step back where a
worker resumed from an earlier checkpoint.
"""

from __future__ import annotations

from typing import Any

import msgspec
import redis.asyncio as aioredis

from service.store.keys import Keys
from service.store.worker_report import ArmTotals, WorkerReport

_KEPT = 5_000  # moments
_FIELD = "m"


class Moment(msgspec.Struct, frozen=True):
    """The worker's counts at a time."""

    at: float  # unix seconds
    version: int  # the last one published
    arms: dict[str, ArmTotals]
    coverage: float
    lag_s: float


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Moment)


def moment_of(report: WorkerReport) -> Moment:
    """Return the part of a report that the history keeps."""
    return Moment(report.reported_at, report.version, report.arms, report.coverage, report.lag_s)


def add(pipe: Any, keys: Keys, moment: Moment) -> None:
    """Append a moment, by a pipeline of a synchronous client."""
    pipe.xadd(keys.history, {_FIELD: _encoder.encode(moment)}, maxlen=_KEPT, approximate=True)


async def read(redis: aioredis.Redis, keys: Keys, after: str, most: int = _KEPT) -> tuple[list[Moment], str]:
    """Moments after the entry `after`, oldest first and at most so many of them, evenly; and the last entry's id."""
    entries = await redis.xrange(keys.history, min=f"({after}" if after else "-")
    moments = []
    step = max(1, -(-len(entries) // most))
    for _, fields in entries[::-step][::-1]:
        try:
            moments.append(_decoder.decode(fields.get(_FIELD.encode(), b"")))
        except msgspec.DecodeError:
            continue
    return moments, entries[-1][0].decode() if entries else after
