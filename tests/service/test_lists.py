"""Lists that are the same for everybody: similar, popular and new items, by category, without what is hidden."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
import redis as syncredis

from service.client import Client, ServiceError
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.variants import Arm
from service.settings import Settings
from service.store.keys import Keys
from tests.service.service_examples import problem_of, until


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


def test_similar_items_are_the_closest_in_the_policy_that_serves(api: httpx.Client, settings: Settings) -> None:
    assert settings.snapshot is not None
    catalogue = load_catalogue(settings.snapshot)
    policy = load_snapshot(settings.snapshot).serving_policy(catalogue.embeddings)
    names = [item.item_id for item in catalogue.items]
    row = 3
    close = policy.closeness(np.arange(len(names)), np.array([row]), Arm.ADAPTIVE)[:, 0]
    close[row] = -np.inf
    expected = [names[n] for n in np.argsort(-close, kind="stable")]
    response = api.get(f"/similar/{names[row]}", params={"count": 5})
    assert ids(response) == expected[:5]
    body = response.json()
    assert body["policy_version"] == 1
    assert body["items"][0]["score"] == pytest.approx(float(close.max()), abs=1e-5)
    hidden = next(item for item in catalogue.items if item.item_id == expected[0])
    api.put(f"/items/{expected[0]}", json={"text": hidden.text, "hidden": True})
    assert ids(api.get(f"/similar/{names[row]}", params={"count": 5})) == expected[1:6]
    assert problem_of(api.get("/similar/nobody"), 404)["code"] == "unknown_item"
    api.delete(f"/items/{names[row]}")
    problem_of(api.get(f"/similar/{names[row]}"), 404)


def test_without_a_policy_texts_tell_what_is_similar(
    settings: Settings, redis: syncredis.Redis, api: httpx.Client, keys: Keys
) -> None:
    assert settings.snapshot is not None
    catalogue = load_catalogue(settings.snapshot)
    redis.delete(keys.live)
    until(lambda: api.get("/readyz").status_code == 503, "unreadiness")
    texts = catalogue.embeddings.astype(np.float16).astype(np.float32)
    close = texts[1:] @ texts[0]
    response = api.get(f"/similar/{catalogue.items[0].item_id}", params={"count": 1})
    assert ids(response) == [catalogue.items[1 + int(close.argmax())].item_id]
    assert response.json()["policy_version"] == 0


def test_popular_and_new_items_by_category(api: httpx.Client) -> None:
    for name, kind in (("a/b", "Left"), ("c", "Right"), ("d", "Left")):
        api.put(f"/items/{name}", json={"text": f"Item {name}", "categories": [kind]}).raise_for_status()
    assert ids(api.get("/new", params={"count": 3})) == ["d", "c", "a/b"]
    assert ids(api.get("/new", params={"count": 3, "category": "Left"})) == ["d", "a/b"]
    assert ids(api.get("/new", params={"count": 2, "category": ["Left", "Right"]})) == ["d", "c"]
    assert ids(api.get("/popular")) == []
    events = [
        {"event_id": f"e{n}", "user_id": user, "item_id": item, "type": "click"}
        for n, (user, item) in enumerate([("u", "c"), ("v", "c"), ("u", "d")])
    ]
    api.post("/feedback", json=events).raise_for_status()
    assert ids(api.get("/popular")) == ["c", "d"]
    assert ids(api.get("/popular", params={"category": "Left"})) == ["d"]
    problem_of(api.get("/popular", params={"count": 0}), 422)
    assert ids(api.get("/similar/a/b", params={"category": "Right"})) == ["c"]


def test_the_client_has_them(http_api: httpx.Client) -> None:
    with Client(str(http_api.base_url)) as client:
        client.put_item("x/y", "The last one", categories=["Left"])
        assert [item.item_id for item in client.newest(count=1).items] == ["x/y"]
        assert client.newest(categories=["Left"]).items[0].text == "The last one"
        assert client.popular().items == []
        assert len(client.similar("x/y", count=4).items) == 4
        with pytest.raises(ServiceError, match="404"):
            client.similar("nobody")


def test_what_is_popular_lately_and_what_is_trending(
    api: httpx.Client, redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """film-1 has always had ten a day, film-2 has had none before today, film-3 was liked long ago."""
    day = 20_000
    monkeypatch.setattr("service.store.popularity.time.time", lambda: day * 86_400 + 50_000.0)
    for ago in range(1, 12):
        redis.zincrby(keys.popularity_of(day - ago), 10, "film-1")
        redis.zincrby(keys.popularity, 10, "film-1")
    redis.zincrby(keys.popularity_of(day - 11), 500, "film-3")
    redis.zincrby(keys.popularity, 500, "film-3")
    events = [("film-1", user) for user in range(11)] + [("film-2", user) for user in range(9)]
    for item, user in events:
        event = {"event_id": f"{item}-{user}", "user_id": f"u{user}", "item_id": item, "type": "like"}
        assert api.post("/feedback", json=[event, event]).json()["accepted"] == 1
    assert 86_400 < redis.ttl(keys.popularity_of(day)) <= 35 * 86_400

    def listed(path: str, **parameters: object) -> list[tuple[str, float]]:
        answer = api.get(path, params={name: str(value) for name, value in parameters.items()})
        return [(item["item_id"], item["score"]) for item in answer.json()["items"]]

    assert listed("/popular") == [("film-3", 500), ("film-1", 121), ("film-2", 9)]
    assert listed("/popular", days=1) == [("film-1", 11), ("film-2", 9)]
    assert listed("/popular", days=7) == [("film-1", 71), ("film-2", 9)]
    assert listed("/trending") == [("film-2", 9.0), ("film-1", pytest.approx(1 / 11**0.5))]
    assert listed("/trending", days=3)[0] == ("film-2", 9.0)
    undo = {"event_id": "undo", "user_id": "u1", "item_id": "film-2", "undo": True}
    api.post("/feedback", json=undo).raise_for_status()
    assert listed("/popular", days=1) == [("film-1", 11), ("film-2", 8)]
    assert listed("/trending", where='{"categories": "Nothing"}') == []
    for path, days in (("/popular", 29), ("/trending", 8), ("/trending", 0)):
        problem_of(api.get(path, params={"days": days}), 422)
