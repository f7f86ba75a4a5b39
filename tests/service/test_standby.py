"""Two workers on one log: one learns, the other stands by, and takes over when it has to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pytest
import redis as syncredis

from service.settings import Settings
from service.store.keys import Keys
from service.worker import gate
from tests.service.service_examples import learning_settings, report_of, serving, talk, until, working

pytestmark = pytest.mark.exclusive

P = ParamSpec("P")
T = TypeVar("T")


def learner_of(redis: syncredis.Redis, keys: Keys) -> int:
    return int(redis.get(keys.lease) or 0)


def after(step: Callable[[], None], then: Callable[P, T]) -> Callable[P, T]:
    """The same, but `step` comes first."""

    def both(*args: P.args, **kwargs: P.kwargs) -> T:
        step()
        return then(*args, **kwargs)

    return both


def test_the_second_takes_over_when_the_first_ends(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    settings = learning_settings(settings, lease_ttl_s=0.5)
    with serving(settings) as client:
        with working(settings) as first:
            until(lambda: first.learning is not None, "the first")
            with working(settings) as second:
                until(lambda: second._standing_by, "the second stands by")
                talk(client, 50)
                until(lambda: report_of(redis, settings).version >= 2, "version 2", lambda: talk(client, 1))
                assert second.learning is None and learner_of(redis, keys) == 1
                first._stop.set()
                until(lambda: second.learning is not None, "the second learns")
                assert learner_of(redis, keys) == 2
                talk(client, 60, start=50)
                until(lambda: report_of(redis, settings).version >= 3, "version 3", lambda: talk(client, 1))
        assert redis.hlen(keys.policies) == report_of(redis, settings).version, "each version once"


def test_a_step_longer_than_the_lease_is_no_reason_to_take_over(
    settings: Settings, redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = learning_settings(settings, lease_ttl_s=1.0)
    judging, judged = threading.Event(), threading.Event()

    def slowly() -> None:
        judging.set()
        judged.wait(40)

    monkeypatch.setattr(gate, "check", after(slowly, gate.check))
    with serving(settings) as client, working(settings) as first:
        until(lambda: first.learning is not None, "the first")
        with working(settings) as second:
            until(lambda: second._standing_by, "the second stands by")
            talk(client, 50)
            until(lambda: judging.is_set(), "a slow gate", lambda: talk(client, 1))
            before = time.monotonic()
            until(lambda: time.monotonic() - before > 3 * settings.lease_ttl_s, "several leases")
            assert learner_of(redis, keys) == 1 and second.learning is None
            judged.set()
            until(lambda: report_of(redis, settings).version >= 2, "version 2")


def test_a_worker_that_is_stuck_gives_way(
    settings: Settings, redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = learning_settings(settings, lease_ttl_s=1.0)
    monkeypatch.setattr("service.worker.worker._STUCK_S", 1.5)
    judging, released = threading.Event(), threading.Event()

    def stuck() -> None:
        if not judging.is_set():
            judging.set()
            released.wait(40)

    monkeypatch.setattr(gate, "check", after(stuck, gate.check))
    with serving(settings) as client, working(settings) as first:
        until(lambda: first.learning is not None, "the first")
        with working(settings) as second:
            until(lambda: second._standing_by, "the second stands by")
            talk(client, 50)
            until(lambda: judging.is_set(), "the first is stuck", lambda: talk(client, 1))
            until(lambda: second.learning is not None, "the second")
            until(lambda: report_of(redis, settings).version >= 2, "its version 2", lambda: talk(client, 1))
            stack = redis.lrange(keys.activations, 0, -1)
            released.set()
            until(lambda: first._standing_by, "the first stands by")
            assert redis.lrange(keys.activations, 0, len(stack) - 1) == stack, "what it had judged is not published"
