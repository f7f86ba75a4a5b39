"""What a user bought is never shown again where a request says so, and what they saw long ago may be."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
import redis as syncredis

from service.client import Client
from service.contract.filters import Placement
from service.contract.schemas import PageRequest, PageSlate
from service.settings import Settings
from service.store.events import Impression
from service.store.keys import Keys
from service.store.sessions import encode
from tests.service.service_examples import N_ITEMS, logged, problem_of, recommend, respond, shown

ALL = {"k": N_ITEMS, "repeat": "freely"}
DAY_S = 86_400
BOUGHT: dict[str, Any] = {"exclude_feedback_types": ["purchase"]}


def buy(api: httpx.Client, item: str, user: str = "ann", kind: str = "purchase", **fields: Any) -> None:
    respond(api, {"event_id": f"{user}-{item}-{kind}", "user_id": user, "item_id": item, "type": kind, **fields})


def hidden(api: httpx.Client, user: str = "ann", **fields: Any) -> set[str]:
    """The items that a slate of all does not have."""
    return {f"film-{n}" for n in range(N_ITEMS)} - set(shown(recommend(api, user, **{**ALL, **fields})))


def test_what_was_bought_is_not_shown_again(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    buy(api, "film-3")
    buy(api, "film-4", kind="view")
    buy(api, "film-5", kind="dislike")
    assert hidden(api) == set()
    assert hidden(api, **BOUGHT) == {"film-3"}
    (_, impression) = [event for event in logged(redis, settings) if isinstance(event, Impression)]
    assert impression.masked == ("film-3",), "so that replay and estimates know"
    assert hidden(api, exclude_feedback_types=["purchase", "dislike"]) == {"film-3", "film-5"}
    assert hidden(api, "bob", **BOUGHT) == set()
    history = [{"item_id": "film-9"}]
    assert hidden(api, history=history, **BOUGHT) == {"film-3"}, "whatever history the request carries"
    pins = [{"slot": 0, "item_id": "film-3"}]
    pinned = recommend(api, "ann", k=3, repeat="freely", rules={"pins": pins}, **BOUGHT)
    assert pinned["warnings"] == ["pin_not_shown"] and "film-3" not in shown(pinned)
    empty = recommend(api, "ann", k=2, repeat="when_empty", candidate_item_ids=["film-3"], **BOUGHT)
    assert empty["items"] == [], "nor where nothing else is left"
    preview = api.post("/preview", json={"user_id": "ann", "k": N_ITEMS, "item_ids": ["film-3"], **BOUGHT}).json()
    assert preview["items"][0]["probability"] == 0
    stored = api.get("/users/ann").json()["items_by_feedback_type"]
    assert stored == {"purchase": ["film-3"], "view": ["film-4"], "dislike": ["film-5"]}


def test_what_is_taken_back_joined_or_erased(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    buy(api, "film-3")
    buy(api, "film-3", kind="view")
    buy(api, "film-4")
    respond(api, {"event_id": "undo", "user_id": "ann", "item_id": "film-3", "undo": True})
    assert hidden(api, exclude_feedback_types=["purchase", "view"]) == {"film-4"}
    respond(api, {"event_id": "v", "session_id": "tab", "item_id": "film-7", "type": "purchase"})
    assert hidden(api, session_id="tab", **BOUGHT) == {"film-4", "film-7"}, "a visitor who logs in"
    api.delete("/users/ann").raise_for_status()
    assert not redis.exists(keys.session("u:ann")) and hidden(api, **BOUGHT) == set()


def test_a_purchase_outlives_the_history(api: httpx.Client, settings: Settings) -> None:
    buy(api, "film-3")
    for n in range(4, 4 + settings.history_length):
        buy(api, f"film-{n}", kind="like")
    assert "film-3" not in [past["item_id"] for past in api.get("/users/ann").json()["history"]]
    assert hidden(api, **BOUGHT) == {"film-3"}


def test_placements_and_pages(http_api: httpx.Client) -> None:
    with Client(str(http_api.base_url)) as client:
        client.put_placement("mail", Placement(k=N_ITEMS, repeat="freely", exclude_feedback_types=["purchase"]))
        buy(http_api, "film-3")
        buy(http_api, "film-4", kind="dislike")
        assert len(shown(recommend(http_api, "ann", placement="mail"))) == N_ITEMS - 1
        both = client.recommend("ann", placement="mail", exclude_feedback_types=["dislike"])
        assert {"film-3", "film-4"}.isdisjoint(item.item_id for item in both.items), "both exclude"
        slates = [
            PageSlate(k=N_ITEMS - 2, repeat="freely", exclude_feedback_types=["purchase", "dislike"]),
            PageSlate(k=9, repeat="freely"),
        ]
        one, two = client.recommend_page(PageRequest(user_id="ann", slates=slates)).slates
        assert len(one.items) == N_ITEMS - 2 and {item.item_id for item in two.items} == {"film-3", "film-4"}
        client.put_placement("week", Placement(k=N_ITEMS, repeat="never", repeat_after_days=7.0))
        assert recommend(http_api, "bob", k=2, placement="week")["warnings"] == []


def test_what_was_seen_long_ago_is_shown_again(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    now = time.time()
    history = [(1, 1.0, now - 9 * DAY_S), (2, 1.0, now - 2 * DAY_S), (3, 0.2, now - 60)]
    redis.set(keys.session("u:ann"), encode(history, [4, 5], now - 5 * DAY_S, {"purchase": [1]}))

    def left(**fields: Any) -> set[str]:
        preview = api.post(
            "/preview", json={"user_id": "ann", "k": 2, "item_ids": [f"film-{n}" for n in range(6)], **fields}
        )
        return {item["item_id"] for item in preview.json()["items"] if item["probability"] > 0}

    assert left() == {"film-0"}
    assert left(repeat_after_days=1) == {"film-0", "film-1", "film-2", "film-4", "film-5"}
    assert left(repeat_after_days=4) == {"film-0", "film-1", "film-4", "film-5"}
    assert left(repeat_after_days=0.5, **BOUGHT) == {"film-0", "film-2", "film-4", "film-5"}
    assert left(repeat_after_days=4, history=[{"item_id": "film-0"}]) == {"film-1", "film-4", "film-5"}
    only = [f"film-{n}" for n in range(1, 6)]
    assert recommend(api, "ann", k=5, repeat="never", candidate_item_ids=only)["items"] == []
    slate = recommend(api, "ann", k=5, repeat="never", repeat_after_days=4.0, candidate_item_ids=only)
    assert set(shown(slate)) == {"film-1", "film-4", "film-5"} and slate["warnings"] == ["fewer_items_than_k"]
    impression = [event for event in logged(redis, settings) if isinstance(event, Impression)][-1]
    assert set(impression.masked) == {"film-2", "film-3"}
    again = recommend(api, "ann", k=5, repeat="never", repeat_after_days=4, candidate_item_ids=only)
    assert again["items"] == [], "they were seen just now"
    filled = recommend(api, "ann", k=4, repeat="when_empty", repeat_after_days=4, candidate_item_ids=only)
    assert "repeated_items" in filled["warnings"] and len(filled["items"]) == 4


def test_types_that_there_are_not_and_what_is_refused(api: httpx.Client) -> None:
    answer = recommend(api, "ann", k=2, exclude_feedback_types=["purchased"])
    assert answer["warnings"] == ["unknown_feedback_type"] and len(answer["items"]) == 2
    preview = api.post("/preview", json={"exclude_feedback_types": ["purchased"], "k": 2}).json()
    assert preview["warnings"] == ["unknown_feedback_type"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"repeat_after_days": 0}, "repeat_after_days"),
        ({"repeat_after_days": "7"}, "repeat_after_days"),
        ({"repeat_after_days": 5_000}, "repeat_after_days"),
        ({"exclude_feedback_types": ["a b"]}, "exclude_feedback_types.0"),
        ({"exclude_feedback_types": "purchase"}, "exclude_feedback_types"),
        ({"exclude_feedback_types": ["a"] * 21}, "exclude_feedback_types"),
    ],
)
def test_refusals_name_the_field(api: httpx.Client, fields: dict[str, Any], field: str) -> None:
    requests = [("/recommend", {"user_id": "ann", **fields}), ("/preview", fields)]
    for path, body in requests:
        assert problem_of(api.post(path, json=body), 422)["errors"][0]["field"] == field
    assert problem_of(api.put("/placements/p", json=fields), 422)["errors"][0]["field"] == field
    page = {"user_id": "ann", "slates": [{"k": 1}, fields]}
    assert problem_of(api.post("/recommend:page", json=page), 422)["errors"][0]["field"] == f"slates.1.{field}"
