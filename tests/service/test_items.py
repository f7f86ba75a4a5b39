"""The catalogue over HTTP: every change counts from the very next answer on, on every server."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from service.settings import Settings
from tests.service.service_examples import Server, problem_of, recommend, respond, shown, until, until_ready


@pytest.fixture
def two(settings: Settings) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two API servers on the same Redis; they look for changes by themselves all but never."""
    slow = settings.model_copy(update={"refresh_interval_s": 0.5})
    with Server(slow) as one, Server(slow) as other:
        for client in (one, other):
            until_ready(client)
        yield one, other


def put(client: httpx.Client, item: str, **body: object) -> int:
    answer = client.put(f"/items/{quote(item, safe='')}", json={"text": "A film", **body})
    assert answer.status_code in (200, 201), answer.text
    return answer.status_code


def test_changes_count_from_the_next_answer_on_both_servers(two: tuple[httpx.Client, httpx.Client]) -> None:
    def visible(user: str) -> list[bool]:
        return ["new" in shown(recommend(client, f"{user}-{n}", k=100)) for n, client in enumerate(two)]

    assert put(two[0], "new") == 201
    assert visible("a") == [True, True]
    assert put(two[1], "new", hidden=True) == 200
    assert visible("b") == [False, False]
    assert two[0].get("/items/new").json()["hidden"] is True
    assert put(two[0], "new", hidden=False) == 200
    assert visible("c") == [True, True]
    assert two[1].delete("/items/new").status_code == 204
    assert visible("d") == [False, False]
    problem_of(two[0].get("/items/new"), 404)
    problem_of(two[0].delete("/items/new"), 404)
    assert put(two[0], "new", text="Revived") in (200, 201)
    assert visible("e") == [True, True]
    assert two[1].get("/items/new").json() == {
        "item_id": "new",
        "text": "Revived",
        "categories": [],
        "hidden": False,
        "properties": {},
        "available_from": None,
        "available_until": None,
    }


def test_an_item_of_the_first_snapshot_can_be_hidden_and_deleted(api: httpx.Client) -> None:
    put(api, "film-3", hidden=True)
    assert api.delete("/items/film-4").status_code == 204
    slate = recommend(api, "ann", k=100, candidate_item_ids=["film-3", "film-4", "film-5"])
    assert shown(slate) == ["film-5"]
    assert slate["items"][0]["propensity"] == pytest.approx(1.0)


def test_a_batch_is_taken_as_a_whole(two: tuple[httpx.Client, httpx.Client]) -> None:
    items = [{"item_id": f"b{n}", "text": f"Batch {n}", "categories": ["Noir"]} for n in range(500)]
    items.append({"item_id": "film-1", "text": "Changed", "categories": ["Noir"]})
    answer = two[0].post("/items:batch", json={"items": items})
    assert answer.json() == {"created": 500, "updated": 1, "warnings": {}}
    slate = recommend(two[1], "ann", k=100, filters={"categories": ["Noir"]})
    assert len(shown(slate)) == 100
    assert two[1].get("/items/film-1").json()["text"] == "Changed"


def test_a_new_item_close_to_a_users_history_is_likely(api: httpx.Client) -> None:
    for n in (0, 3):
        respond(api, {"event_id": f"e{n}", "user_id": "ann", "item_id": f"film-{n}", "type": "like"})
    put(api, "close", text="Film number 3", categories=["Drama"])
    slate = recommend(api, "ann", k=100)
    scores = {item["item_id"]: item["score"] for item in slate["items"]}
    assert scores["close"] > np.median(list(scores.values()))


STRANGE = [
    "a/b",
    "a b",
    "ünï",
    "🎬",
    "100%",
    "%2F",
    "x:activate",
    "../up",
    "?q=1",
    "#",
    "/",
    "//",
    "a\tb",
    "\0",
    "é" * 128,
]


@pytest.mark.parametrize("item", STRANGE, ids=ascii)
def test_ids_are_opaque(http_api: httpx.Client, item: str) -> None:
    assert put(http_api, item) == 201
    assert put(http_api, item, text="Second") == 200
    path = f"/items/{quote(item, safe='')}"
    stored = http_api.get(path).json()
    assert (stored["item_id"], stored["text"]) == (item, "Second")
    assert shown(recommend(http_api, item, candidate_item_ids=[item])) == [item]
    outcome = respond(http_api, {"event_id": item, "user_id": item, "item_id": item, "type": "click"})
    assert outcome["accepted"] == 1
    assert http_api.get(f"/users/{quote(item, safe='')}").json()["history"][0]["item_id"] == item
    assert http_api.delete(f"/users/{quote(item, safe='')}").status_code == 200
    assert http_api.delete(path).status_code == 204


def test_an_item_may_be_called_like_a_route(api: httpx.Client) -> None:
    assert put(api, "items:batch") == 201
    assert api.get("/items/items:batch").status_code == 200
    assert api.post("/items:batch", json={"items": [{"item_id": ":batch", "text": "t"}]}).json()["created"] == 1


def test_markup_stays_text(api: httpx.Client) -> None:
    text = "<script>alert('x')</script> {{7*7}} \u202e \x00 ' ; DROP"
    put(api, "markup", text=text)
    assert api.get("/items/markup").json()["text"] == text
    assert api.get("/items/markup").headers["content-type"] == "application/json"


def test_items_need_a_policy_to_be_embedded(settings: Settings) -> None:
    with Server(settings.model_copy(update={"snapshot": None})) as client:
        until(lambda: "redis_unavailable" not in client.get("/readyz").json()["reasons"], "Redis")
        answer = client.put("/items/a", json={"text": "t"})
        assert problem_of(answer, 503)["code"] == "no_policy"
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("blank", [" ", "\t\r\n", "\u00a0\u3000\u2028", "\x1c"])
def test_a_text_or_category_of_white_space_is_refused_and_its_place_named(api: httpx.Client, blank: str) -> None:
    answers = {
        "text": api.put("/items/a", json={"text": blank}),
        "categories.1": api.put("/items/a", json={"text": "A", "categories": ["x", blank]}),
        "items.1.text": api.post("/items:batch", json={"items": [item("a", "A"), item("b", blank)]}),
    }
    for field, answer in answers.items():
        (error,) = problem_of(answer, 422)["errors"]
        assert (error["field"], error["message"]) == (field, "Value error, must not be only white space")
    assert api.get("/items/a").status_code == 404


def item(item_id: str, text: str) -> dict[str, str]:
    return {"item_id": item_id, "text": text}


def test_white_space_at_the_ends_of_a_text_is_kept(api: httpx.Client) -> None:
    """What is read is what was put: who compares both, as a synchronisation does, would put it again for ever."""
    assert api.put("/items/a", json={"text": " A film\n"}).json()["text"] == " A film\n"
    assert api.get("/items/a").json()["text"] == " A film\n"


def test_a_text_that_the_encoder_cannot_read_is_told_and_counted(api: httpx.Client) -> None:
    """The examples' encoder knows spelling alone, so a text without words is what it cannot read."""
    assert api.put("/items/a", json={"text": "A film"}).json()["warnings"] == []
    assert api.put("/items/b", json={"text": "\u2605\u2605\u2605"}).json()["warnings"] == ["unread_text"]
    assert api.put("/items/c", json={"text": "?!"}).json()["warnings"] == ["unread_text", "same_vector"]
    # Of a text that has not changed nothing is told again, and one item is not like itself.
    assert api.put("/items/c", json={"text": "?!", "hidden": True}).json()["warnings"] == []
    assert api.put("/items/b", json={"text": "..."}).json()["warnings"] == ["unread_text"]
    assert api.patch("/items/a", json={"text": "..."}).json()["warnings"] == ["unread_text"]  # b's own text
    assert api.get("/items/c").json().keys() == api.get("/items/b").json().keys() - {"warnings"}
    batch = [item("d", "\u266a"), item("e", "\u266b"), item("f", "\u266b"), item("g", "A song")]
    told = api.post("/items:batch", json={"items": batch}).json()
    assert told == {"created": 4, "updated": 0, "warnings": {"unread_text": 3, "same_vector": 3}}
    metrics = api.get("/metrics").text
    assert 'ialp_item_warnings_total{code="unread_text"} 7.0' in metrics
    assert 'ialp_item_warnings_total{code="same_vector"} 4.0' in metrics
