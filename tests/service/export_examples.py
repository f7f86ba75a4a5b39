"""What the tests of exports share: a log written by hand, time that passes, and the command."""

from __future__ import annotations

from pathlib import Path

import redis as syncredis
from typer.testing import CliRunner

from service.__main__ import app as service_app
from service.store import event_log, events
from service.store.events import Event, Feedback, Impression
from service.store.keys import Keys

HOUR_MS = 3_600_000
# However slow the machine is: no click comes too late, and no slate goes without being logged.
PATIENT: dict[str, object] = {"reward_window_s": 600.0, "redis_timeout_s": 60.0, "recommend_redis_timeout_s": 60.0}


def put(redis: syncredis.Redis, keys: Keys, at_ms: int, event: Event) -> None:
    """Log an event at a time."""
    redis.xadd(keys.events, {events.FIELD: events.encode(event)}, id=f"{at_ms}-*")


def impression(number: int, user: str, *items: str, history: tuple[tuple[str, float], ...] = ()) -> Impression:
    """A slate whose propensities are a tenth."""
    propensities = tuple(0.1 for _ in items)
    return Impression(f"r{number}", user, "adaptive", 1, history, items, propensities, "hash")


def click(number: int, user: str, item: str, reward: float = 1.0) -> Feedback:
    """What answers it."""
    return Feedback(f"e{number}-{item}-{reward}", user, item, reward, f"r{number}")


def let_an_hour_pass(redis: syncredis.Redis, keys: Keys) -> None:
    """Move the log an hour back, so that every reward window is over."""
    entries = event_log.read(redis, keys, event_log.START, 100_000, 1)
    redis.delete(keys.events)
    for entry_id, payload in entries:
        ms, number = entry_id.split("-")
        redis.xadd(keys.events, {events.FIELD: payload}, id=f"{int(ms) - HOUR_MS}-{number}")


def export(*arguments: str | Path, code: int = 0) -> str:
    """`python -m service export`; returns what it said."""
    result = CliRunner().invoke(service_app, ["export", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output
