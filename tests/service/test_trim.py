"""The log forgets only what both checkpoints are past."""

from __future__ import annotations

import asyncio

import redis as syncredis

from service.settings import Settings
from service.store import events
from service.store.checkpoint import CheckpointStore
from service.store.keys import Keys
from service.worker.counters import Meta
from tests.service.service_examples import learning_settings, report_of, until, working
from tests.service.test_roll_back import GOOD, log_of, prepare

SECOND = 1_000


def test_nothing_is_forgotten_that_a_checkpoint_may_need(
    settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    """Events a second apart, a checkpoint every 200 of them, and a retention of 60 s: the checkpoints decide."""
    settings = learning_settings(
        settings, stream_retention_s=60, checkpoint_every=200, publish_every=10**9, reward_window_s=5.0, lease_ttl_s=0.5
    )
    asyncio.run(prepare(settings))
    log = log_of(1, 1_000, 0, GOOD)[:1_100]
    for n, event in enumerate(log, start=1):
        redis.xadd(keys.events, {events.FIELD: events.encode(event)}, id=f"{n * SECOND}-0")
    with working(settings):
        until(lambda: sum(report_of(redis, settings).events.values()) == len(log), "the log's end")
        until(lambda: redis.xlen(keys.events) < len(log), "trimming")
    folder = settings.data_dir / "worker"
    older, newer = sorted(folder.glob("checkpoint-*"))
    store = CheckpointStore(folder, Meta, token=2**31)
    newer.rename(folder / "kept")
    saved = store.load()
    assert saved is not None
    first = redis.xinfo_stream(keys.events)["first-entry"][0].decode()
    assert int(first.split("-")[0]) <= int(saved[0].counters.cursor.split("-")[0]) + SECOND
    assert saved[0].counters.cursor == f"{1_000 * SECOND}-0" and older.exists()

    # And so it loses nothing to learn on from the older one.
    redis.delete(keys.worker)
    with working(settings):
        until(lambda: report_of(redis, settings).cursor == f"{len(log) * SECOND}-0", "the log's end again")
    assert report_of(redis, settings).events["impression"] == sum(type(e).__name__ == "Impression" for e in log)


def test_what_is_old_and_learned_is_forgotten(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings, stream_retention_s=60, checkpoint_every=100, publish_every=10**9)
    keys = Keys(settings.key_prefix)
    asyncio.run(prepare(settings))
    for n, event in enumerate(log_of(1, 1_000, 0, GOOD), start=1):
        redis.xadd(keys.events, {events.FIELD: events.encode(event)}, id=f"{n * SECOND}-0")
    redis.xadd(keys.dead, {b"e": b"old", b"reason": b"r"}, id="1-0")
    with working(settings):
        until(lambda: redis.xlen(keys.events) < 500, "trimming")
