"""What the dashboard and an operator read: items, explanations, the latest slates, the log as a file, this moment."""

from __future__ import annotations

import io
import itertools
import json
from unittest import mock

import httpx
import numpy as np
import pyarrow.parquet
import pytest
import redis as syncredis
import redis.asyncio as aioredis

from service.api.now import lately
from service.settings import Settings
from service.store import moments
from service.store.keys import Keys
from service.store.worker_report import ArmTotals, WorkerReport
from tests.service.auth_examples import add_key, bearer, id_of
from tests.service.service_examples import (
    N_ITEMS,
    Server,
    learning_settings,
    problem_of,
    recommend,
    report_of,
    respond,
    serving,
    serving_http,
    shown,
    talk,
    until,
    until_ready,
    working,
)


def like(client: httpx.Client, user: str, item: str, **fields: object) -> None:
    respond(client, {"event_id": f"{user}-{item}", "user_id": user, "item_id": item, "type": "like", **fields})


def test_items_are_listed_page_by_page(api: httpx.Client) -> None:
    api.put("/items/film-3", json={"text": "Hidden", "hidden": True}).raise_for_status()
    api.delete("/items/film-4").raise_for_status()
    found, after = [], None
    for _ in range(10):
        told = api.get("/items", params={"count": 7, **({"after": after} if after else {})}).json()
        found += [item["item_id"] for item in told["items"]]
        after = told["next"]
        if after is None:
            break
    assert found == [f"film-{n}" for n in range(N_ITEMS) if n != 4]
    assert api.get("/items", params={"after": "unknown"}).json() == {"items": [], "next": None, "found_by": None}
    assert api.get("/items", params={"after": f"film-{N_ITEMS - 1}"}).json()["items"] == []
    problem_of(api.get("/items", params={"count": 0}), 422)


def test_items_are_found_by_their_text(api: httpx.Client) -> None:
    api.put("/items/bees", json={"text": "A documentary on bees"}).raise_for_status()
    api.put("/items/wasps", json={"text": "A documentary on wasps", "hidden": True}).raise_for_status()

    def found(search: str, count: int = 100) -> tuple[list[str], str]:
        told = api.get("/items", params={"search": search, "count": count}).json()
        return [item["item_id"] for item in told["items"]], told["found_by"]

    assert found("Documentary: BEES") == (["bees"], "words"), "all words, and no others that are close"
    assert found("docu on") == (["bees"], "words"), "what is hidden cannot be shown"
    everything = api.get("/items", params={"search": "docu on", "hidden": True}).json()["items"]
    assert {item["item_id"]: item["hidden"] for item in everything} == {"bees": False, "wasps": True}
    api.delete("/items/wasps").raise_for_status()
    everything = api.get("/items", params={"search": "wasps", "hidden": True, "count": 100}).json()["items"]
    assert "wasps" not in [item["item_id"] for item in everything]
    assert len(found("film")[0]) == N_ITEMS
    assert found("film number 2", 4)[0][0] == "film-2" and len(found("film number 2", 4)[0]) == 4, "best match first"
    closest, by = found("a documentary about honey bees", 3)
    assert (closest[0], len(closest), by) == ("bees", 3, "meaning"), "where no text has all words"
    assert found("?!", 3)[1] == "meaning"


def test_without_a_policy_nothing_is_found_and_nothing_explained(settings: Settings) -> None:
    with Server(settings.model_copy(update={"snapshot": None})) as client:
        assert client.get("/items", params={"search": "film"}).json() == {"items": [], "next": None, "found_by": None}
        problem = problem_of(client.post("/explain", json={"user_id": "ann", "item_ids": ["film-1"]}), 503)
        assert problem["code"] == "no_policy"


def test_an_explanation_names_the_closest_liked_items(api: httpx.Client) -> None:
    asked = {"user_id": "ann", "item_ids": ["film-7", "film-8", "nowhere", "film-7"]}
    stranger = api.post("/explain", json=asked).json()
    assert [item["item_id"] for item in stranger["items"]] == ["film-7", "film-8"] and stranger["history"] == []
    assert all(item["nearest"] == [] for item in stranger["items"])
    for item in ("film-1", "film-2", "film-4", "film-10"):
        like(api, "ann", item)
    respond(api, {"event_id": "no", "user_id": "ann", "item_id": "film-13", "type": "dislike"})
    before = api.get("/users/ann").json()
    told = api.post("/explain", json=asked).json()
    assert api.get("/users/ann").json() == before, "to ask changes nothing"
    assert [past["item_id"] for past in told["history"]] == ["film-1", "film-2", "film-4", "film-10", "film-13"]
    assert told["history"][0] == {"item_id": "film-1", "text": "Film number 1", "reward": 1.0}
    comedy, western = told["items"]
    assert comedy["text"] == "Film number 7" and comedy["categories"] == ["Comedy"]
    assert {near["item_id"] for near in comedy["nearest"]} == {"film-1", "film-4", "film-10"}, "comedies, too"
    assert western["nearest"][0]["item_id"] == "film-2"
    closeness = [near["closeness"] for near in comedy["nearest"]]
    assert closeness == sorted(closeness, reverse=True) and -1.001 <= closeness[-1] <= closeness[0] <= 1.001
    liked = api.post("/explain", json={"user_id": "ann", "item_ids": ["film-1"]}).json()["items"][0]
    assert "film-1" not in [near["item_id"] for near in liked["nearest"]], "an item is no reason for itself"
    problem_of(api.post("/explain", json={"item_ids": ["film-1"]}), 422)


def test_the_latest_slates_come_with_their_feedback(api: httpx.Client) -> None:
    first = recommend(api, "ann", k=3)
    second = recommend(api, "ben", k=2)
    like(api, "ann", shown(first)[1], recommendation_id=first["recommendation_id"])
    respond(
        api,
        {
            "event_id": "v",
            "user_id": "ann",
            "item_id": shown(first)[1],
            "type": "view",
            "recommendation_id": first["recommendation_id"],
        },
    )
    like(api, "ann", "film-3")  # organic
    told = api.get("/impressions", params={"count": 2}).json()["impressions"]
    assert [one["recommendation_id"] for one in told] == [second["recommendation_id"], first["recommendation_id"]]
    assert [one["user"] for one in told] == ["u:ben", "u:ann"]
    assert [item["reward"] for item in told[1]["items"]] == [None, pytest.approx(1.2), None]
    assert all(item["reward"] is None for item in told[0]["items"])
    assert [item["text"] for item in told[0]["items"]] == [f"Film number {item[5:]}" for item in shown(second)]
    assert [item["propensity"] for item in told[0]["items"]] == [item["propensity"] for item in second["items"]]
    assert len(api.get("/impressions", params={"count": 1}).json()["impressions"]) == 1


def test_what_cannot_be_read_is_passed_over(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    slate = recommend(api, "ann")
    redis.xadd(Keys(settings.key_prefix).events, {"e": b"\xc1"})
    told = api.get("/impressions").json()["impressions"]
    assert [one["recommendation_id"] for one in told] == [slate["recommendation_id"]]


def test_the_log_comes_as_a_file(api: httpx.Client, settings: Settings) -> None:
    slate = recommend(api, "ann", k=3)
    until(lambda: _rows(api) == [slate["recommendation_id"]], "the slate to close")
    answer = api.get("/log:export")
    assert answer.headers["content-disposition"] == 'attachment; filename="log.parquet"'


def _rows(api: httpx.Client) -> list[str]:
    table = pyarrow.parquet.read_table(io.BytesIO(api.get("/log:export").content))
    ids: list[str] = table["recommendation_id"].to_pylist()
    return ids


def test_without_pyarrow_the_export_says_what_to_do(api: httpx.Client) -> None:
    with mock.patch.dict("sys.modules", {"pyarrow": None}):
        problem = problem_of(api.get("/log:export"), 501)
    assert "pip install 'ialp[offline]'" in problem["detail"]


@pytest.mark.parametrize("path", ["/items", "/impressions", "/log:export", "/dashboard/stream"])
def test_they_need_an_admin(settings: Settings, redis: syncredis.Redis, path: str) -> None:
    closed = settings.model_copy(update={"auth": "on"})
    keys = Keys(closed.key_prefix)
    server, admin = add_key(redis, keys, "serve", "feedback", "metrics"), add_key(redis, keys, "admin")
    with serving_http(closed) as client:
        assert client.get("/").status_code == 200, "the page itself tells nothing"
        problem_of(client.get(path), 401)
        problem_of(client.get(path, headers=bearer(server)), 403)
        with client.stream("GET", path, headers=bearer(admin)) as answer:
            assert answer.status_code == 200


def events_of(client: httpx.Client, n: int) -> list[tuple[str, object]]:
    """The stream's first `n` events."""
    found: list[tuple[str, object]] = []
    with client.stream("GET", "/dashboard/stream") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                found.append((name, json.loads(line[6:])))
            if len(found) == n:
                break
    return found


def test_the_stream_begins_with_the_history_and_goes_on(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client, working(settings):
        (first, moments), (second, now) = events_of(client, 2)
        assert (first, moments, second) == ("history", [], "now")
        spoken = 0

        def is_told() -> bool:
            nonlocal spoken
            talk(client, 10, spoken)
            spoken += 10
            return set(report_of(redis, settings).arms) == {"adaptive", "control"} and told() > 0

        def told() -> int:
            return int(redis.xlen(Keys(settings.key_prefix).history))

        until(is_told, "a moment of the history")
        before = told()
        until(lambda: is_told() and told() > before, "one that has seen both arms")
        (_, moments), (_, now) = events_of(client, 2)
        assert isinstance(moments, list) and isinstance(now, dict)
        at, version, coverage, lag_s, arms = moments[-1]
        assert at > 1e9 and version >= 1 and 0 <= coverage <= 1 and lag_s >= 0
        n, reward, squares, weight, entropy = arms["adaptive"]
        assert 0 < n <= spoken and squares >= reward >= 0 and 0 <= weight <= n and entropy > 0
        assert now["items"] == N_ITEMS and now["requests"]["per_second"] > 0
        assert now["requests"]["p50_ms"] <= now["requests"]["p99_ms"]
        assert [one["kind"] for one in now["trouble"] if one["kind"] != "unwatched"] == ["no_auth"]
        client.post("/policies:freeze").raise_for_status()
        (_, _), (_, now) = events_of(client, 2)
        assert isinstance(now, dict)
        assert [one["kind"] for one in now["trouble"]] == ["frozen", "no_auth"] and now["mode"] == "frozen"


def test_an_operator_is_told_what_a_deployment_waits_for_what_is_on_trial_and_what_was_refused(
    settings: Settings,
) -> None:
    quick = learning_settings(settings, publish_every=1_000)
    users = itertools.count()
    with serving(quick) as client:

        def trouble() -> dict[str, str]:
            (_, _), (_, now) = events_of(client, 2)
            assert isinstance(now, dict)
            return {one["kind"]: one["text"] for one in now["trouble"]}

        with working(quick):
            until(lambda: "waiting" in trouble(), "a word of what is waited for")
            waiting = trouble()["waiting"]
            assert "after 50 closed slates" in waiting and "0 so far" in waiting and "0.05 s after" in waiting
            until(lambda: "trial" in trouble(), "the first version", lambda: talk(client, 1))
            assert "share of 10%" in trouble()["trial"] and "waiting" not in trouble()
            assert "each arm needs users of at least 6 of 64 groups" in trouble()["unwatched"]
            until(
                lambda: "more slates" in trouble()["unwatched"],
                "its numbers",
                lambda: talk(client, 1, start=next(users)),
            )
            power = client.get("/evaluation").json()["power"]
            assert power["groups"] >= 6 and power["control"] > 0
        with serving(quick.model_copy(update={"control_share": 0.0})) as without_control:
            (_, _), (_, now) = events_of(without_control, 2)
            assert isinstance(now, dict)
            assert "IALP_CONTROL_SHARE" in {one["kind"]: one["text"] for one in now["trouble"]}["unwatched"]
        with working(quick.model_copy(update={"gate_margin": -100.0})):
            until(lambda: "refused" in trouble(), "a refusal", lambda: talk(client, 1))
            assert "would have earned less than what served" in trouble()["refused"]
            assert "goes on serving" in trouble()["refused"]
            until(lambda: "restarted" in trouble(), "the learner to start again", lambda: talk(client, 1))
            assert "started again from version" in trouble()["restarted"] and "refused" not in trouble()


def test_a_process_that_stops_ends_its_streams(settings: Settings) -> None:
    with Server(settings.model_copy(update={"stop_timeout_s": 5})) as client:
        until_ready(client)
        stream = client.stream("GET", "/dashboard/stream")
        lines = stream.__enter__().iter_lines()
        next(lines)


def test_rates_and_percentiles_are_of_the_last_ten_seconds() -> None:
    recent = [(100.0 + n / 10, 0.001 * n) for n in range(200)]  # until 119.9
    told = lately(recent, 120.0)
    assert told.per_second == pytest.approx(10.0, abs=0.2)
    assert told.p50_ms == pytest.approx(np.median(np.arange(100, 200)), abs=1.0)
    assert lately(recent, 200.0).p50_ms is None and lately([], 0.0).per_second == 0.0
    burst = [(50.0 + n / 1000, 0.004) for n in range(4000)]  # a full record of four seconds
    assert lately(burst, 54.0).per_second == pytest.approx(1000, rel=0.01)


async def test_the_history_is_capped_and_thinned(settings: Settings, redis: syncredis.Redis) -> None:
    keys = Keys(settings.key_prefix)
    for n in range(50):
        report = WorkerReport(reported_at=float(n), version=n, arms={"control": ArmTotals(n, 1.0, 1.0)})
        pipe = redis.pipeline()
        moments.add(pipe, keys, moments.moment_of(report))
        pipe.execute()
    redis.xadd(keys.history, {"m": b"\xc1"})
    client = aioredis.from_url(settings.redis_url)
    every, last = await moments.read(client, keys, "")
    assert [moment.version for moment in every] == list(range(50))
    few, same = await moments.read(client, keys, "", most=10)
    assert len(few) <= 10 and few[-1].version >= 40 and same == last
    assert await moments.read(client, keys, last) == ([], last)
    await client.aclose()


def test_without_keys_pages_of_other_sites_are_refused(http_api: httpx.Client) -> None:
    host = f"{http_api.base_url.host}:{http_api.base_url.port}"
    for method, path in (("POST", "/policies:freeze"), ("POST", "/recommend"), ("GET", "/policies")):
        body = {"user_id": "ann"} if path == "/recommend" else None
        answer = http_api.request(method, path, json=body, headers={"Origin": "http://evil.example"})
        assert problem_of(answer, 403)["code"] == "cross_origin"
        assert http_api.request(method, path, json=body, headers={"Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example:1"]
)
def test_without_keys_a_name_of_another_site_is_no_way_in(api: httpx.Client, host: str) -> None:
    """A name that leads to this machine (DNS rebinding): its page's requests have no foreign origin."""
    for path in ("/policies", "/users/ann", "/dashboard/stream"):
        answer = api.get(path, headers={"Host": host, "Origin": f"http://{host}"})
        assert problem_of(answer, 403)["code"] == "cross_origin"
    answer = api.post("/recommend", json={"user_id": "ann"}, headers={"Host": host})
    assert problem_of(answer, 403)["code"] == "cross_origin"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000", "192.168.0.7:80"])
def test_addresses_and_localhost_are(api: httpx.Client, host: str) -> None:
    assert api.get("/policies", headers={"Host": host}).status_code == 200


def test_where_all_is_hidden_nothing_is_found(api: httpx.Client) -> None:
    hidden = [{"item_id": f"film-{n}", "text": "Gone", "hidden": True} for n in range(N_ITEMS)]
    api.post("/items:batch", json={"items": hidden}).raise_for_status()
    assert api.get("/items", params={"search": "film"}).json()["items"] == []


def test_a_stream_ends_with_its_key(settings: Settings, redis: syncredis.Redis) -> None:
    closed = settings.model_copy(update={"auth": "on"})
    keys = Keys(closed.key_prefix)
    admin = add_key(redis, keys, "admin")
    with serving(closed) as client, client.stream("GET", "/dashboard/stream", headers=bearer(admin)) as answer:
        lines = answer.iter_lines()
        next(lines)
        redis.hdel(keys.api_keys, id_of(admin))
        assert len(list(lines)) < 100, "the stream comes to its end"
