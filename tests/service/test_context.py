"""Facts about requests and users: taken, stored, logged, exported, erased; bad ones are refused by name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import redis as syncredis

from service.api.features import facts_in
from service.client import Client
from service.policy.context import MOST_FEATURES, features_of
from service.settings import Settings
from service.store.events import Impression
from service.store.keys import Keys
from tests.service.service_examples import logged, problem_of, recommend

FACTS: dict[str, Any] = {"device": "phone", "hour": 21, "member": True, "tags": ["a", "b"], "nothing": None}


def latest(redis: syncredis.Redis, settings: Settings) -> Impression:
    return [event for event in logged(redis, settings) if isinstance(event, Impression)][-1]


def test_facts_are_logged_with_what_is_stored_of_the_user(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    recommend(api, "ann")
    assert latest(redis, settings).context == {}
    put = api.put("/users/ann", json={"features": {"country": "at", "age": 34, "nothing": None}})
    assert put.status_code == 200 and put.json() == {"user_id": "ann", "features": {"country": "at", "age": 34}}
    assert api.get("/users/ann").json()["features"] == {"country": "at", "age": 34}
    recommend(api, "ann", context=FACTS)
    facts = {name: value for name, value in FACTS.items() if value is not None}
    assert latest(redis, settings).context == {"user.country": "at", "user.age": 34, **facts}
    recommend(api, "ann", context={"user.age": 35})
    assert latest(redis, settings).context == {"user.country": "at", "user.age": 35}
    recommend(api, "bob")
    assert latest(redis, settings).context == {}
    page = {"user_id": "ann", "context": {"page": "home"}, "slates": [{"k": 2}, {"k": 2}]}
    assert api.post("/recommend:page", json=page).status_code == 200
    assert latest(redis, settings).context["page"] == "home"
    assert api.post("/preview", json={"user_id": "ann", "context": FACTS}).status_code == 200
    redis.set(keys.features("ann"), b"\xff")
    recommend(api, "ann")


def test_features_change_and_are_erased(http_api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    with Client(str(http_api.base_url)) as client:
        client.put_user("ann", {"country": "at", "age": 34})
        changed = client.change_user("ann", {"age": None, "interests": ["opera"]})
        assert changed.features == {"country": "at", "interests": ["opera"]}
        assert client.user("ann").features == changed.features and client.user("ann").history == []
        client.put_user("ben", {"country": "at"})
        assert client.change_user("ben", {"country": None}).features == {}
    assert not redis.exists(keys.features("u:ben"))
    assert http_api.delete("/users/ann").status_code == 200
    assert not redis.exists(keys.features("u:ann")) and http_api.get("/users/ann").status_code == 404


@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"": 1}, "features"),
        ({"a": {"b": 1}}, "features.a"),
        ({"a": [1]}, "features.a"),
        ({"a": "x" * 1001}, "features.a"),
        ({"a": ["x"] * 17}, "features.a"),
        ({str(n): "x" for n in range(33)}, "features"),
        ({str(n): ["x"] * 16 for n in range(5)}, "features"),
        ("x", "features"),
    ],
)
def test_what_is_no_fact_is_refused_by_its_name(api: httpx.Client, facts: object, field: str) -> None:
    for method, path, body in (
        ("PUT", "/users/ann", {"features": facts}),
        ("PATCH", "/users/ann", {"features": facts}),
        ("POST", "/recommend", {"user_id": "ann", "context": facts}),
    ):
        problem = problem_of(api.request(method, path, json=body), 422)
        named = field.replace("features", "context") if method == "POST" else field
        assert any(error["field"].startswith(named) for error in problem["errors"]), problem
    assert api.get("/users/ann").status_code == 404


def test_changes_that_come_to_too_much_change_nothing(api: httpx.Client) -> None:
    assert api.put("/users/ann", json={"features": {str(n): "x" for n in range(32)}}).status_code == 200
    problem = problem_of(api.patch("/users/ann", json={"features": {"one more": "x"}}), 422)
    assert problem["errors"][0]["field"] == "features"
    assert len(api.get("/users/ann").json()["features"]) == 32


def test_the_most_that_a_request_and_its_user_may_say_is_all_read() -> None:
    most = {f"{kind}{n}": ["x", "y"] for kind in ("a", "user.") for n in range(32)}
    assert MOST_FEATURES - 8 < len(features_of(most)) <= MOST_FEATURES, "but for those that share a row"


def test_personalizers_features_are_facts() -> None:
    given: list[dict[str, Any]] = [
        {"userId": "ann", "timeOfDay": "Morning", "none": None, "": 1},
        {"device": {"mobile": True, "os": ["a", "b"]}, "list": [{"deep": {"er": 2}}], "long": "x" * 2_000},
    ]
    expected = {"timeOfDay": "Morning", "device.mobile": True, "device.os": ["a", "b"], "list.deep.er": 2}
    assert facts_in(given) == expected
    assert len(facts_in([{str(n): "x" for n in range(200)}])) == 64 and facts_in(None) == {}
    nested: dict[str, Any] = {"a": 1}
    for _ in range(500):
        nested = {"a": nested, "b": nested}
    assert len(json.dumps(facts_in([{"deep": [nested]}]))) < 10_000
