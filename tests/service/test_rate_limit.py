"""The token bucket: exact against an oracle, one for all processes, and in memory while Redis is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import redis as syncredis
import redis.asyncio as aioredis

from service.runtime import embedded
from service.settings import Settings
from service.store import rate_limit
from service.store.keys import Keys
from service.store.rate_limit import RateLimiter
from tests.service.auth_examples import add_key, bearer
from tests.service.service_examples import make_settings, problem_of, serving, until

pytestmark = pytest.mark.exclusive

ASK = {"user_id": "ann", "k": 1}
EVENTS = [{"event_id": f"e-{n}", "user_id": "ann", "item_id": "film-1", "type": "click"} for n in range(100)]
SLOW = {"rate": 0.01, "burst": 3}  # a token in 100 s: none comes back while a test runs


@pytest.fixture
def settings(redis_url: str, snapshot_folder: Path, tmp_path: Path) -> Settings:
    """With keys, as a deployment has it."""
    return make_settings(redis_url, snapshot_folder, tmp_path, auth="on")


@pytest.fixture
async def connected(redis_url: str) -> AsyncIterator[aioredis.Redis]:
    client = aioredis.from_url(redis_url)
    yield client
    await client.aclose()


def statuses(client: httpx.Client, token: str, n: int) -> list[int]:
    return [client.post("/recommend", json=ASK, headers=bearer(token)).status_code for _ in range(n)]


def test_past_its_burst_a_key_is_told_when_to_come_back(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    token, other = (add_key(redis, keys, "serve", "feedback", "admin", **SLOW) for _ in range(2))
    with serving(settings) as client:
        assert statuses(client, token, 1) == [200]
        events = client.post("/feedback", json=EVENTS, headers=bearer(token))
        assert events.json()["accepted"] == 100, "an array is one request"
        assert client.get("/v1/policies", headers={"x-api-key": token}).status_code == 200
        refused = client.post("/recommend", json=ASK, headers=bearer(token))
        assert problem_of(refused, 429)["code"] == "rate_limited"
        assert 0 < int(refused.headers["retry-after"]) <= 100
        assert statuses(client, other, 4) == [200, 200, 200, 429], "each key has its own"


@pytest.mark.parametrize(("wait_s", "retry_after"), [(1e-3, "1"), (1.0, "1"), (1.001, "2"), (99.5, "100")])
def test_retry_after_is_rounded_up(
    settings: Settings,
    redis: syncredis.Redis,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    wait_s: float,
    retry_after: str,
) -> None:
    async def wait(*_: object) -> float:
        return wait_s

    monkeypatch.setattr(RateLimiter, "wait_s", wait)
    token = add_key(redis, keys, "serve", **SLOW)
    with serving(settings) as client:
        refused = client.post("/recommend", json=ASK, headers=bearer(token))
    problem_of(refused, 429)
    assert refused.headers["retry-after"] == retry_after


def test_what_is_refused_for_other_reasons_takes_nothing(
    settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    token = add_key(redis, keys, "serve", **SLOW)
    with serving(settings) as client:
        for _ in range(5):
            problem_of(client.get("/policies", headers=bearer(token)), 403)
            problem_of(client.post("/recommend", json=ASK, headers=bearer(f"{token}x")), 401)
        assert statuses(client, token, 4) == [200, 200, 200, 429]


def test_processes_share_a_bucket(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    token = add_key(redis, keys, "serve", **SLOW)
    with serving(settings) as one, serving(settings) as two:
        assert statuses(one, token, 2) + statuses(two, token, 2) == [200, 200, 200, 429]


def test_a_key_without_a_rate_costs_no_round_trip(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    """/recommend runs two scripts, for the session and the log; what is more is the limiter's."""

    def scripts() -> int:
        return sum(stats["calls"] for name, stats in redis.info("commandstats").items() if "evalsha" in name)

    free, limited = add_key(redis, keys, "serve"), add_key(redis, keys, "serve", rate=1_000.0, burst=1_000)
    with serving(settings) as client:
        before = scripts()
        assert statuses(client, free, 10) == [200] * 10
        assert scripts() == before + 20
        assert statuses(client, limited, 10) == [200] * 10
        assert scripts() == before + 50


def test_without_redis_the_same_numbers_hold_in_memory(snapshot_folder: Path, tmp_path: Path) -> None:
    server = embedded.serving(tmp_path / "redis")
    url = server.__enter__()
    settings = make_settings(url, snapshot_folder, tmp_path / "service", auth="on")
    with syncredis.from_url(url) as redis:
        token = add_key(redis, Keys(settings.key_prefix), "serve", **SLOW)
    with serving(settings) as client:
        server.__exit__(None, None, None)
        assert statuses(client, token, 4) == [200, 200, 200, 429]
        refused = client.post("/recommend", json=ASK, headers=bearer(token))
        assert problem_of(refused, 429)["code"] == "rate_limited"
        with embedded.serving(tmp_path / "redis"):
            until(lambda: statuses(client, token, 1) == [200], "the bucket in Redis, which nobody took from")


async def test_many_at_once_get_what_there_is(
    connected: aioredis.Redis, redis_url: str, redis: syncredis.Redis, keys: Keys
) -> None:
    async with aioredis.from_url(redis_url) as second:
        limiters = [RateLimiter(connected, keys), RateLimiter(second, keys)]
        waits = await asyncio.gather(*(limiters[n % 2].wait_s("k", 0.01, 10) for n in range(40)))
    assert sorted(waits)[:11] == pytest.approx([0.0] * 10 + [100.0], abs=10)
    assert [wait for wait in waits if wait == 0.0] == [0.0] * 10
    assert 0 < redis.pttl(keys.bucket("k")) <= 1_000_000, "a bucket is gone when it is full"


async def test_a_clock_that_was_set_back_locks_nobody_out(
    connected: aioredis.Redis, redis: syncredis.Redis, keys: Keys
) -> None:
    redis.set(keys.bucket("k"), redis.time()[0] + 1e6)
    assert 0 < await RateLimiter(connected, keys).wait_s("k", 0.01, 10) <= 100


class Bucket:
    """The oracle: tokens, counted."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst, self.tokens, self.at = rate, burst, float(burst), 0.0

    def wait_s(self, now: float) -> float:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 - 1e-6 * self.rate:
            return (1 - self.tokens) / self.rate
        self.tokens -= 1
        return 0.0


# Hours pass between requests, so that what a key in Redis does with its own clock does not matter.
RATES = [(0.01, 1), (0.01, 3), (0.003, 10), (1 / 700, 2)]


def arrivals(rate: float, seed: int) -> np.ndarray[Any, Any]:
    """400 requests, 1.2 times as many as allowed, some at the same instant; today's magnitude of time."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate / 1.2, 400) * (rng.random(400) < 0.8)
    return 1.75e9 + np.cumsum(np.round(gaps, 6))


@pytest.mark.parametrize(("rate", "burst"), RATES)
async def test_the_script_counts_as_the_oracle_does(
    connected: aioredis.Redis, keys: Keys, rate: float, burst: int
) -> None:
    clocked = rate_limit.TAKE.replace("redis.call('TIME')", "{ARGV[4], ARGV[5]}")
    assert clocked != rate_limit.TAKE
    take, oracle = connected.register_script(clocked), Bucket(rate, burst)
    refused = 0
    for now in arrivals(rate, seed=burst):
        micros = round(now * 1e6)
        args = [rate, burst, rate_limit._ROUNDING_S, micros // 10**6, micros % 10**6]
        wait = float(await take(keys=[keys.bucket("k")], args=args))
        assert wait == pytest.approx(oracle.wait_s(micros / 1e6), abs=1e-3)
        refused += wait > 0
    assert 20 < refused < 380


@pytest.mark.parametrize(("rate", "burst"), [*RATES, (7.0, 5), (1_000.0, 100)])
def test_memory_counts_as_the_oracle_does(
    redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, rate: float, burst: int
) -> None:
    limiter, oracle = RateLimiter(aioredis.Redis(), keys), Bucket(rate, burst)
    refused = 0
    for now in arrivals(rate, seed=burst):
        monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=lambda now=now: now))
        wait = limiter._wait_here_s("k", rate, burst)
        assert wait == pytest.approx(oracle.wait_s(now), abs=1e-3)
        refused += wait > 0
    assert 20 < refused < 380
