"""POST /feedback: idempotent, atomic, durable before it is acknowledged, and felt in the next slate."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import redis as syncredis

from service.settings import Settings
from service.store.events import Feedback
from service.store.keys import Keys
from service.store.sessions import decode
from tests.service.service_examples import logged, problem_of, recommend, respond, serving, shown


def click(event_id: str, item: str = "film-1", user: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"event_id": event_id, "user_id": user, "item_id": item, "type": "click", **fields}


def everything(redis: syncredis.Redis, keys: Keys) -> dict[str, Any]:
    """All that a feedback event may change."""
    return {
        "log": redis.xrange(keys.events),
        "session": redis.get(keys.session("u:ann")),
        "popularity": redis.zrange(keys.popularity, 0, -1, withscores=True),
    }


def test_a_hundred_repetitions_change_nothing_after_the_first(
    api: httpx.Client, redis: syncredis.Redis, keys: Keys
) -> None:
    slate = recommend(api, "ann", k=3)
    event = click("once", shown(slate)[0], recommendation_id=slate["recommendation_id"])
    answer = respond(api, event)
    assert answer == {"accepted": 1, "duplicates": 0, "rejected": [], "outcomes": answer["outcomes"]}
    before = everything(redis, keys)
    reward = "ialp_reward_total"
    counted = [line for line in api.get("/metrics").text.splitlines() if line.startswith(reward)]
    for _ in range(100):
        assert respond(api, event) == {"accepted": 0, "duplicates": 1, "rejected": [], "outcomes": {}}
    assert everything(redis, keys) == before
    assert [line for line in api.get("/metrics").text.splitlines() if line.startswith(reward)] == counted


def test_arrays_of_valid_invalid_and_repeated_events(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    respond(api, click("known"))
    sent: list[Any] = [
        click("a"),
        click("known"),
        click("a", item="film-2"),  # the id decides, not the content
        {"event_id": "b", "user_id": "ann"},
        click("c", item="nowhere"),
        "text",
        click("d", type="yawn"),
        click("e", item="film-3", reward=0.5, type=None),
        {"event_id": "\ud800", "user_id": "ann"},
    ]
    answer = api.post("/feedback", content=json.dumps(sent), headers={"content-type": "application/json"})
    assert answer.status_code == 202
    outcome = answer.json()
    assert (outcome["accepted"], outcome["duplicates"]) == (2, 2)
    rejected = [(r["index"], r["event_id"], r["code"]) for r in outcome["rejected"]]
    assert rejected == [
        (3, "b", "missing"),
        (4, "c", "unknown_item"),
        (5, None, "model_type"),
        (6, "d", "unknown_type"),
        (8, None, "string_unicode"),
    ]
    history = api.get("/users/ann").json()["history"]
    assert [(past["item_id"], past["reward"]) for past in history] == [
        ("film-1", 1.0),
        ("film-3", 0.5),
    ]
    assert redis.xlen(keys.events) == 3
    assert respond(api, *[]) == {"accepted": 0, "duplicates": 0, "rejected": [], "outcomes": {}}


def test_each_user_has_event_ids_of_their_own(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    """trials I: the second user's event "1" was taken for a duplicate, and lost with 202."""
    for user in ("ann", "bob"):
        assert respond(api, click("1", user=user))["accepted"] == 1
        assert respond(api, click("1", user=user))["duplicates"] == 1
    visitor = {"event_id": "1", "session_id": "ann", "item_id": "film-1", "type": "click"}
    assert respond(api, visitor)["accepted"] == 1, "a visitor whose session is called as a user is"
    assert redis.xlen(keys.events) == 3


def test_the_answer_says_what_events_will_teach_and_why_others_will_not(settings: Settings) -> None:
    with serving(settings.model_copy(update={"reward_window_s": 600.0})) as client:
        slate = recommend(client, "ann", k=3)
        ours = {"recommendation_id": slate["recommendation_id"], "type": "click"}
        events = [
            {"event_id": "a", "user_id": "ann", "item_id": shown(slate)[0], **ours},
            {"event_id": "b", "user_id": "ann", "item_id": shown(slate)[1], **ours},
            {"event_id": "b", "user_id": "ann", "item_id": shown(slate)[1], **ours},
            {"event_id": "c", "user_id": "bob", "item_id": shown(slate)[0], **ours},
            {"event_id": "d", "user_id": "ann", "item_id": "film-1", "type": "like"},
            {"event_id": "e", "user_id": "ann", "item_id": "film-1", "type": "like", "recommendation_id": "mine"},
        ]
        answer = respond(client, *events)
        assert answer["outcomes"] == {"teaches": 2, "foreign": 1, "organic": 1, "unknown": 1}
        assert (answer["accepted"], answer["duplicates"]) == (5, 1)
    with serving(settings.model_copy(update={"reward_window_s": 0.001})) as client:
        late = {"event_id": "f", "user_id": "ann", "item_id": shown(slate)[0], **ours}
        assert respond(client, late)["outcomes"] == {"late": 1}


def test_a_history_is_in_the_order_of_what_happened_and_knows_nothing_that_is_long_ago(api: httpx.Client) -> None:
    """trials H, of one request: likes sent newest first were reversed, and old ones pushed out today's."""
    now = time.time()
    ago = [
        1000 * (now - 60),
        now - 3_600,
        datetime.fromtimestamp(now - 7_200, UTC).isoformat(),
        now - 10 * 365 * 86_400,
    ]
    events = [{**click(f"e{n}", f"film-{n}"), "occurred_at": when} for n, when in enumerate(ago)]
    assert respond(api, *events)["accepted"] == 4
    assert [past["item_id"] for past in api.get("/users/ann").json()["history"]] == ["film-2", "film-1", "film-0"]
    for wrong in ("yesterday", 1e15, -1e12, [1]):
        problem = problem_of(api.post("/feedback", json={**click("w"), "occurred_at": wrong}), 422)
        assert problem["errors"][0]["field"] == "occurred_at", wrong
    assert "ISO 8601" in api.post("/feedback", json={**click("w"), "occurred_at": "yesterday"}).text


@pytest.mark.parametrize("reward", [1.5, -2.0, 1e6])
def test_a_reward_that_is_larger_than_any_can_be_is_refused_and_says_so(settings: Settings, reward: float) -> None:
    event = {"event_id": "e", "user_id": "ann", "item_id": "film-1", "reward": reward}
    with serving(settings) as client:
        problem = problem_of(client.post("/feedback", json=event), 422)
        assert problem["errors"] == [
            {
                "field": "reward",
                "code": "reward_out_of_range",
                "message": "must be from -1 to 1; IALP_REWARD_MAX sets the largest",
            }
        ]
        answer = client.post("/feedback", json=[event, click("f")]).json()
        assert (answer["accepted"], answer["rejected"][0]["code"]) == (1, "reward_out_of_range")
    with serving(settings.model_copy(update={"reward_max": 1e6})) as client:
        assert client.post("/feedback", json=event).status_code == 202


def test_of_identical_events_at_once_exactly_one_is_accepted(
    http_api: httpx.Client, redis: syncredis.Redis, keys: Keys
) -> None:
    def post(_: int) -> dict[str, Any]:
        with httpx.Client(base_url=http_api.base_url, timeout=30) as client:
            return respond(client, click("same"), click("same"))

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(post, range(16)))
    assert sum(outcome["accepted"] for outcome in outcomes) == 1
    assert sum(outcome["duplicates"] for outcome in outcomes) == 31
    assert redis.xlen(keys.events) == 1


def test_what_is_acknowledged_is_in_the_log(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    for n in range(20):
        respond(api, click(f"e{n}", f"film-{n}", user="bob", occurred_at=1.5))
        newest = logged(redis, settings)[-1]
        assert newest == Feedback(f"e{n}", "u:bob", f"film-{n}", 1.0, type="click", occurred_at=1.5)


@pytest.mark.parametrize(
    ("sent", "reward"), [({"type": "dislike"}, -1.0), ({"reward": 0.25}, 0.25), ({"reward": 0}, 0)]
)
def test_types_have_the_configured_rewards(api: httpx.Client, sent: dict[str, Any], reward: float) -> None:
    respond(api, {"event_id": "e", "user_id": "ann", "item_id": "film-1", **sent})
    assert api.get("/users/ann").json()["history"] == [{"item_id": "film-1", "reward": reward}]


def test_feedback_moves_the_next_slate(api: httpx.Client) -> None:
    """Profiles of liked text weigh 2 in this snapshot: after liking Comedies, Comedies become likelier."""

    def share_of_comedies(user: str) -> float:
        slate = recommend(api, user, k=30)
        comedies = [item for item in slate["items"] if int(item["item_id"][5:]) % 3 == 1 and item["slot"] >= 0]
        share: float = sum(item["score"] for item in comedies)
        return share

    before = share_of_comedies("somebody-new")
    for n, film in enumerate((1, 4)):
        respond(api, click(f"like-{n}", f"film-{film}", user="fan"))
        respond(api, click(f"not-{n}", f"film-{film - 1}", user="fan", type="dislike"))
    slate = recommend(api, "fan", k=30, repeat="never")
    assert "fewer_items_than_k" in slate["warnings"] and not {"film-1", "film-4", "film-0", "film-3"} & set(
        shown(slate)
    )
    comedies = [item["score"] for item in slate["items"] if int(item["item_id"][5:]) % 3 == 1]
    assert sum(comedies) > before


def test_sessions_without_an_account_are_separate_from_users(api: httpx.Client) -> None:
    respond(api, {"event_id": "s", "session_id": "ann", "item_id": "film-7", "type": "click"})
    assert api.get("/users/ann").status_code == 404
    slate = recommend(api, session_id="ann", k=30, repeat="never")
    assert "film-7" not in shown(slate) and len(shown(slate)) == 29


def test_sessions_are_capped(redis: syncredis.Redis, settings: Settings, keys: Keys, api: httpx.Client) -> None:
    respond(api, *[click(f"e{n}", f"film-{n % 30}") for n in range(60)])
    session = decode(redis.get(keys.session("u:ann")))
    assert [place for place, _ in session.history] == [n % 30 for n in range(60)][-settings.history_length :]
    assert set(session.seen) == set(range(30))
    assert 0 < redis.ttl(keys.session("u:ann")) <= settings.session_ttl_s
    assert 0 < redis.ttl(keys.event("u:ann", "e1")) <= settings.dedupe_ttl_s
