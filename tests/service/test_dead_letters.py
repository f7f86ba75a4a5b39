"""Entries that cannot be used: listed with the reason, replayed once, discarded."""

from __future__ import annotations

import base64

import httpx
import redis as syncredis

from service.settings import Settings
from service.store import event_log, events
from service.store.events import Feedback
from service.store.keys import Keys
from service.store.lease import Lease
from tests.service.service_examples import learning_settings, logged, problem_of, report_of, serving, until, working


def set_aside(redis: syncredis.Redis, keys: Keys, *payloads: bytes, limit: int = 1_000) -> None:
    lease = Lease(redis, keys, 60.0)
    assert lease.acquire()
    for n, payload in enumerate(payloads, start=1):
        event_log.set_aside(lease, keys, f"{1000 + n}-0", payload, f"reason {n}", limit)
    lease.release()


def test_they_are_listed_by_pages(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    assert api.get("/dead-letters").json() == {"dead_letters": [], "next": None}
    set_aside(redis, keys, b"one", b"\xff\x00", b"")
    page = api.get("/dead-letters", params={"count": 2}).json()
    assert [letter["entry_id"] for letter in page["dead_letters"]] == ["1001-0", "1002-0"]
    assert page["dead_letters"][1]["reason"] == "reason 2"
    assert base64.b64decode(page["dead_letters"][1]["payload"]) == b"\xff\x00"
    rest = api.get("/dead-letters", params={"count": 2, "after": page["next"]}).json()
    assert [letter["entry_id"] for letter in rest["dead_letters"]] == ["1003-0"] and rest["next"] is None
    assert problem_of(api.get("/dead-letters", params={"after": "x"}), 422)["errors"][0]["field"] == "query.after"


def test_a_replayed_one_is_learned_from_once(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    settings = learning_settings(settings)
    organic = events.encode(Feedback("e", "u:ann", "film-1", 1.0))
    with serving(settings) as client, working(settings):
        until(lambda: bool(redis.exists(keys.worker)), "the worker")
        set_aside_by_hand = {events.FIELD: organic, b"reason": b"a bug that is mended"}
        redis.xadd(keys.dead, set_aside_by_hand, id="1001-0")
        moved = client.post("/dead-letters/1001-0:replay")
        assert moved.status_code == 200
        assert [entry.decode() for entry, _ in redis.xrange(keys.events)] == [moved.json()["entry_id"]]
        problem_of(client.post("/dead-letters/1001-0:replay"), 404)
        until(lambda: report_of(redis, settings).events == {"feedback_organic": 1}, "the event")
        assert logged(redis, settings) == [events.decode(organic)]


def test_poison_that_is_replayed_comes_back(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client, working(settings):
        redis.xadd(keys.events, {events.FIELD: b"junk"})
        until(lambda: redis.xlen(keys.dead) == 1, "the dead letter")
        (letter,) = client.get("/dead-letters").json()["dead_letters"]
        assert letter["reason"].startswith("EventError: not an event")
        new = client.post(f"/dead-letters/{letter['entry_id']}:replay").json()["entry_id"]
        until(lambda: redis.xlen(keys.dead) == 1, "the dead letter again")
        (again,) = client.get("/dead-letters").json()["dead_letters"]
        assert (again["entry_id"], again["payload"]) == (new, letter["payload"])


def test_a_discarded_one_is_gone(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    set_aside(redis, keys, b"one", b"two")
    assert api.delete("/dead-letters/1001-0").status_code == 204
    problem_of(api.delete("/dead-letters/1001-0"), 404)
    assert [letter["entry_id"] for letter in api.get("/dead-letters").json()["dead_letters"]] == ["1002-0"]
    for bad in ("x", "1", "1-", "99999999999999999999-0"):
        problem_of(api.delete(f"/dead-letters/{bad}"), 404)


def test_only_so_many_are_kept(redis: syncredis.Redis, keys: Keys) -> None:
    set_aside(redis, keys, *[b"x"] * 1_000, limit=100)
    assert 100 <= redis.xlen(keys.dead) < 400, "trimmed by whole nodes of the stream"
