"""Connections to Redis: every client of ours is made here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis as syncredis
import redis.asyncio as aioredis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.store.circuit import Bounded, Circuit

if TYPE_CHECKING:  # settings load torch, which the commands need not wait for
    from service.settings import Settings

EXPORT_S = 60.0  # what a client that reads the whole log gives each answer beyond the usual


def connect(settings: Settings, circuit: Circuit | None = None, timeout_s: float | None = None) -> aioredis.Redis:
    """Make a client for the event loop with bounded waits and no hidden retries: the caller decides about outages.

    Args:
        settings: name the server.
        circuit: clients with the same one stop asking together; without one, every call asks.
        timeout_s: how long a call may take; by default as the settings say.
    """
    retry = Bounded(timeout_s or settings.redis_timeout_s, circuit)
    return aioredis.from_url(settings.redis_url, socket_timeout=None, socket_connect_timeout=None, retry=retry)


def connect_blocking(settings: Settings, answer_s: float = 0.0) -> syncredis.Redis:
    """Make a client that blocks, without retries; an answer may take `answer_s` longer than the settings say."""
    return syncredis.from_url(
        settings.redis_url,
        socket_timeout=settings.redis_timeout_s + answer_s,
        socket_connect_timeout=settings.redis_timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
