"""Redis stands still, is full or takes no writes: nobody waits for it, nothing half happens, all recovers by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import redis as syncredis
from redis.exceptions import BusyLoadingError, OutOfMemoryError
from redis.exceptions import ConnectionError as RedisConnectionError

from service.runtime import embedded
from service.settings import Settings
from service.store.circuit import Circuit, CircuitOpen
from service.store.connect import connect
from service.store.events import Feedback
from tests.service.service_examples import (
    logged,
    make_settings,
    problem_of,
    recommend,
    respond,
    serving_http,
    shown,
    until,
    until_ready,
)

pytestmark = pytest.mark.exclusive

EVENT = {"event_id": "e", "user_id": "ann", "item_id": "film-1", "type": "click"}
AWAY = ["session_unavailable", "impression_not_logged"]


@pytest.fixture
def own_url(tmp_path: Path) -> Iterator[str]:
    """A server that no other test shares."""
    with embedded.serving(tmp_path / "redis") as url:
        yield url


@pytest.fixture
def own(own_url: str, snapshot_folder: Path, tmp_path: Path) -> Settings:
    """A deployment on it. One answer may take longer than the test's client waits for the API: who waits, fails."""
    return make_settings(own_url, snapshot_folder, tmp_path / "service", redis_timeout_s=60.0)


@contextlib.contextmanager
def stopped(url: str) -> Iterator[None]:
    """The server stands still: it accepts connections and answers nothing."""
    with syncredis.from_url(url) as redis:
        pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_nobody_waits_for_a_redis_that_stands_still(own: Settings) -> None:
    with serving_http(own) as client:
        recommend(client, "ann")
        with stopped(own.redis_url):
            for n in range(20):
                slate = recommend(client, f"u{n}", k=3)
                assert (slate["warnings"], len(shown(slate))) == (AWAY, 3)
            refused = client.post("/feedback", json=EVENT)
            assert problem_of(refused, 503)["code"] == "storage_unavailable"
            assert refused.headers["retry-after"] == "1"
            for method, path in (("GET", "/users/ann"), ("GET", "/items/film-1"), ("DELETE", "/items/film-1")):
                problem_of(client.request(method, path), 503)
            for method, path in (("POST", "/policies:freeze"), ("GET", "/policies"), ("GET", "/evaluation")):
                problem_of(client.request(method, path), 503)
            assert problem_of(client.put("/items/film-1", json={"text": "t"}), 503)["code"] == "storage_unavailable"
            assert client.get("/readyz").json()["reasons"] == ["redis_unavailable"]
            assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200
        until_ready(client)
        assert recommend(client, "ann")["warnings"] == []
        assert respond(client, EVENT)["accepted"] == 1


def test_the_watch_notices_on_its_own_and_finds_redis_back(
    snapshot_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with embedded.serving(tmp_path / "redis") as url:
        settings = make_settings(url, snapshot_folder, tmp_path / "service", redis_timeout_s=0.1)
        with serving_http(settings) as client, caplog.at_level("INFO", "service.store.circuit"):
            with stopped(url):
                until(lambda: "Redis does not answer (TimeoutError)" in caplog.text, "the watch's failure")
                assert recommend(client, "ann")["warnings"] == AWAY
                assert caplog.text.count("Redis does not answer") == 1
            until(lambda: "Redis answers again" in caplog.text, "the watch's success")
            assert recommend(client, "ann")["warnings"] == []


def test_feedback_that_timed_out_counts_once_when_it_is_sent_again(
    own_url: str, snapshot_folder: Path, tmp_path: Path
) -> None:
    settings = make_settings(own_url, snapshot_folder, tmp_path / "service", redis_timeout_s=0.3)
    with serving_http(settings) as client, syncredis.from_url(own_url) as redis:
        respond(client, {**EVENT, "event_id": "before", "user_id": "bob"})  # from now on the server has the script
        with stopped(own_url):
            problem = problem_of(client.post("/feedback", json=EVENT), 503)
            assert "may or may not have been carried out" in problem["detail"] and "counts once" in problem["detail"]
        until_ready(client)
        outcome = respond(client, EVENT)
        assert outcome["accepted"] + outcome["duplicates"] == 1
        taken = [event.event_id for event in logged(redis, settings) if isinstance(event, Feedback)]
        assert taken == ["before", "e"]
        assert client.get("/users/ann").json()["history"] == [{"item_id": "film-1", "reward": 1.0}]


def fill_up(redis: syncredis.Redis) -> Callable[[], object]:
    redis.config_set("maxmemory", 1)
    return lambda: redis.config_set("maxmemory", 0)


def make_read_only(redis: syncredis.Redis) -> Callable[[], object]:
    redis.replicaof("127.0.0.1", 1)
    return lambda: redis.replicaof("no", "one")


@pytest.mark.parametrize("spoil", [fill_up, make_read_only])
def test_a_redis_that_takes_no_writes_is_still_read(
    own: Settings, spoil: Callable[[syncredis.Redis], Callable[[], object]]
) -> None:
    with serving_http(own) as client, syncredis.from_url(own.redis_url) as redis:
        respond(client, EVENT)
        mend = spoil(redis)
        for n in range(10):
            refused = client.post("/feedback", json={**EVENT, "event_id": f"e{n}"})
            assert problem_of(refused, 503)["code"] == "storage_unavailable"
            assert refused.headers["retry-after"] == "1"
            slate = recommend(client, "ann", k=3)
            assert slate["warnings"] == ["impression_not_logged"]
            assert "film-1" not in shown(slate), "what ann has seen is known"
        assert client.get("/users/ann").json()["history"] == [{"item_id": "film-1", "reward": 1.0}]
        assert client.get("/readyz").status_code == 200
        mend()
        assert recommend(client, "ann", k=3)["warnings"] == []
        assert respond(client, {**EVENT, "event_id": "e0"})["accepted"] == 1
        assert len([event for event in logged(redis, own) if isinstance(event, Feedback)]) == 2


def test_latencies_of_an_outage(own: Settings, record_property: Callable[[str, object], None]) -> None:
    """Clients that come all at once wait for one short time-out, whatever a Redis call may take elsewhere."""
    latencies: list[float] = []
    warnings: set[str] = set()

    def ask(seed: int) -> None:
        with httpx.Client(base_url=base_url, timeout=30) as client:
            for n in range(50):
                answer = client.post("/recommend", json={"user_id": f"u{seed}-{n}"})
                latencies.append(answer.elapsed.total_seconds())
                warnings.update(answer.json()["warnings"])

    with serving_http(own) as client:
        base_url = client.base_url
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        with stopped(own.redis_url):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(latencies) == 400 and warnings == set(AWAY)
    record_property("p99_ms", 1000 * statistics.quantiles(latencies, n=100)[98])


async def test_the_circuit_opens_after_three_failures_in_a_row_and_only_closes_when_told() -> None:
    now, asked = 0.0, 0
    circuit = Circuit(clock=lambda: now)

    async def fail() -> None:
        nonlocal asked
        asked += 1
        raise RedisConnectionError

    async def refuse() -> None:
        raise OutOfMemoryError

    async def succeed() -> str:
        return "PONG"

    for outcome in (fail, fail, succeed, fail, fail):
        with contextlib.suppress(RedisConnectionError):
            await circuit.call(outcome)
    for _ in range(5):
        with pytest.raises(OutOfMemoryError):
            await circuit.call(refuse)
    assert not circuit.is_open
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            await circuit.call(fail)
    assert not circuit.is_open, "a moment"
    now = 0.3
    with pytest.raises(RedisConnectionError):
        await circuit.call(fail)
    assert circuit.is_open and asked == 8
    for outcome in (fail, succeed):
        with pytest.raises(CircuitOpen):
            await circuit.call(outcome)
    assert asked == 8, "it is not asked"
    circuit.close()
    assert await circuit.call(succeed) == "PONG"
    assert issubclass(BusyLoadingError, RedisConnectionError), "a Redis that still loads can be asked nothing"


async def test_a_busy_event_loop_is_no_outage(own: Settings) -> None:
    """The answer is there before the loop, held up by slates in the making, gets round to the clock."""
    circuit = Circuit()
    client = connect(own, circuit, timeout_s=0.05)
    assert await client.ping()
    for _ in range(5):
        calls = [asyncio.create_task(client.ping()) for _ in range(3)]
        await asyncio.sleep(0)  # they send
        await asyncio.sleep(0)
        time.sleep(0.1)
        assert await asyncio.gather(*calls) == [True] * 3
    assert not circuit.is_open
    await client.aclose()
