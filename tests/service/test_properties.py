"""Properties, filters, windows, rules and placements over HTTP."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as syncredis

from service.api.state import Encoder
from service.client import Client
from service.contract.filters import AtMost, Filters, Placement, Rules
from service.contract.items import ItemPatch
from service.contract.schemas import PageRequest, PageSlate
from service.policy.snapshot_files import load_catalogue, load_snapshot, save_snapshot
from service.policy.text import Embeddings, item_text
from service.settings import Settings
from service.store.events import Impression, decode_mask
from tests.service.service_examples import N_ITEMS, logged, problem_of, recommend, serving, until

BRANDS = ("Acme", "Initech", "Hooli")


@pytest.fixture
def shop(api: httpx.Client) -> httpx.Client:
    """Every item has a price, its number; a brand; tags; and a time."""
    items = [
        {
            "item_id": f"film-{n}",
            "text": f"Film number {n}",
            "categories": ["Drama" if n % 2 else "Comedy"],
            "properties": {
                "price": n,
                "brand": BRANDS[n % 3],
                "tags": ["new", f"t{n % 5}"] if n > 20 else [f"t{n % 5}"],
                "made": f"20{n:02d}-01-01",
                "sold_out": n == 7,
            },
        }
        for n in range(N_ITEMS)
    ]
    api.post("/items:batch", json={"items": items}).raise_for_status()
    return api


def shown(api: httpx.Client, user: str = "ann", **body: Any) -> list[str]:
    return [item["item_id"] for item in recommend(api, user, **{"k": 30} | body)["items"]]


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ({"price": {"<": 3}}, [0, 1, 2]),
        ({"price": {">": 3, "<=": 6}, "brand": "Acme"}, [6]),
        ({"brand": ["Acme", "Initech"], "price": {">=": 26}}, [27, 28]),
        ({"tags": "new", "not": {"tags": ["t1", "t2", "t3"]}}, [24, 25, 29]),
        ({"made": {">=": "2028-06-01"}}, [29]),
        ({"made": {"<": "2001-01-01T01:00:00+02:00"}}, [0]),
        ({"sold_out": True}, [7]),
        ({"sold_out": {"!=": False}}, [7]),
        ({"or": [{"price": 1}, {"categories": "Drama", "price": {"<=": 3}}]}, [1, 3]),
    ],
)
def test_filters(shop: httpx.Client, where: dict[str, Any], numbers: list[int]) -> None:
    assert sorted(shown(shop, filters={"where": where})) == sorted(f"film-{n}" for n in numbers)
    listed = shop.get("/new", params={"count": 100, "where": httpx.Response(200, json=where).text}).json()["items"]
    assert sorted(item["item_id"] for item in listed) == sorted(f"film-{n}" for n in numbers)
    preview = shop.post("/preview", json={"k": 30, "filters": {"where": where}}).json()
    assert sorted(item["item_id"] for item in preview["slate"]) == sorted(f"film-{n}" for n in numbers)


def test_what_is_wrong_or_unknown_in_a_filter_is_told(shop: httpx.Client) -> None:
    answer = recommend(shop, "ann", k=3, filters={"where": {"weight": {"<": 3}}})
    assert "unknown_property" in answer["warnings"] and answer["items"] == []
    for body in ({"where": {"price": {"below": 3}}}, {"where": {"price": None}}, {"where": [1]}):
        problem = problem_of(shop.post("/recommend", json={"user_id": "ann", "filters": body}), 422)
        assert problem["errors"][0]["field"] == "filters.where"
    problem = problem_of(shop.get("/new", params={"where": "{price"}), 422)
    assert problem["errors"][0]["field"] == "where"
    assert problem_of(shop.get("/popular", params={"where": '{"price": {"below": 3}}'}), 422)


def test_properties_are_kept_changed_and_returned(shop: httpx.Client) -> None:
    stored = shop.get("/items/film-3").json()
    assert stored["properties"] == {
        "price": 3,
        "brand": "Acme",
        "tags": ["t3"],
        "made": "2003-01-01",
        "sold_out": False,
    }
    changed = shop.patch(
        "/items/film-3", json={"properties": {"price": 99.5, "sold_out": None}, "available_until": 9e9}
    )
    assert changed.status_code == 200, changed.text
    assert changed.json()["properties"] == {"price": 99.5, "brand": "Acme", "tags": ["t3"], "made": "2003-01-01"}
    assert changed.json()["text"] == "Film number 3" and changed.json()["available_until"] == 9e9
    assert shown(shop, filters={"where": {"price": {">": 50}}}) == ["film-3"]
    (item,) = recommend(shop, "bob", k=1, candidate_item_ids=["film-3"], include_items=True)["items"]
    assert (item["text"], item["categories"]) == ("Film number 3", ["Drama"])
    assert item["properties"] == changed.json()["properties"]
    assert "text" not in recommend(shop, "bob", k=1)["items"][0]
    shop.put("/items/film-3", json={"text": "Film number 3"}).raise_for_status()
    assert shop.get("/items/film-3").json()["properties"] == {}
    assert shown(shop, "cid", filters={"where": {"price": {">": 50}}}) == []
    assert shop.patch("/items/film-3", json={"hidden": True}).json()["hidden"] is True
    problem_of(shop.patch("/items/nothing", json={"hidden": True}), 404)


@pytest.mark.parametrize(
    ("properties", "field"),
    [
        ({"price": {"amount": 3}}, "properties.price"),
        ({"2nd": 3}, "properties.2nd"),
        ({"categories": ["a"]}, "properties"),
        ({"price": None}, "properties.price"),
        ({"a": "x" * 1_001}, "properties.a"),
        ({f"p{n}": n for n in range(33)}, "properties"),
    ],
)
def test_what_no_property_can_be_is_refused(api: httpx.Client, properties: dict[str, Any], field: str) -> None:
    problem = problem_of(api.put("/items/x", json={"text": "X", "properties": properties}), 422)
    assert problem["errors"][0]["field"].startswith(field)
    problem_of(api.get("/items/x"), 404)


def test_a_snapshot_brings_properties_along(settings: Settings, tmp_path: Path) -> None:
    assert settings.snapshot is not None
    snapshot, catalogue = load_snapshot(settings.snapshot), load_catalogue(settings.snapshot)
    items = tuple(replace(item, properties={"price": n, "tags": ["a"]}) for n, item in enumerate(catalogue.items))
    save_snapshot(snapshot, tmp_path / "snapshot", replace(catalogue, items=items))
    with serving(settings.model_copy(update={"snapshot": tmp_path / "snapshot"})) as api:
        assert api.get("/items/film-3").json()["properties"] == {"price": 3, "tags": ["a"]}
        assert sorted(shown(api, filters={"where": {"price": {"<": 2}, "tags": "a"}})) == ["film-0", "film-1"]


def test_a_text_is_embedded_only_when_it_changes(shop: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    encode = Encoder.encode

    async def counting(self: Encoder, name: str, texts: list[str]) -> Embeddings:
        embedded.extend(texts)
        return await encode(self, name, texts)

    monkeypatch.setattr(Encoder, "encode", counting)
    shop.patch("/items/film-3", json={"properties": {"price": 1}}).raise_for_status()
    body = {"text": "Film number 4", "categories": ["Comedy"], "properties": {"price": 0}}
    shop.put("/items/film-4", json=body).raise_for_status()
    assert embedded == []
    shop.put("/items/film-4", json=body | {"text": "Another"}).raise_for_status()
    shop.patch("/items/film-3", json={"categories": ["Noir"]}).raise_for_status()
    assert embedded == [item_text("Another", ["Comedy"]), item_text("Film number 3", ["Noir"])]


def test_an_item_is_there_in_its_time(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    now = time.time()
    body = {"text": "Film number 3", "categories": ["Drama"]}
    api.put("/items/film-3", json=body | {"available_from": now + 3600}).raise_for_status()
    api.put("/items/film-4", json=body | {"available_until": "2020-01-01"}).raise_for_status()
    api.put("/items/film-5", json=body | {"available_from": now - 9, "available_until": now + 3600}).raise_for_status()
    names = set(shown(api))
    assert names.isdisjoint({"film-3", "film-4"}) and "film-5" in names and len(names) == N_ITEMS - 2
    listed = api.get("/new", params={"count": 100}).json()["items"]
    assert {item["item_id"] for item in listed} == names
    api.put("/items/film-3", json=body | {"available_from": time.time() + 0.3}).raise_for_status()
    until(lambda: "film-3" in shown(api, "bob", repeat="freely"), "the film's time")


def test_pins_are_shown_and_are_no_choice_of_the_policy(
    shop: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    pins = [{"slot": 0, "item_id": "film-9"}, {"slot": 3, "item_id": "film-2"}, {"slot": 9, "item_id": "film-4"}]
    answer = recommend(shop, "ann", k=5, rules={"pins": pins}, filters={"where": {"brand": "Hooli"}})
    items = answer["items"]
    assert [items[0]["item_id"], items[3]["item_id"]] == ["film-9", "film-2"]
    assert [item["source"] == "pinned" for item in items] == [True, False, False, True, False]
    assert (items[0]["propensity"], items[0]["score"]) == (1.0, 0.0)
    drawn = [item for item in items if item["source"] != "pinned"]
    assert all(int(item["item_id"][5:]) % 3 == 2 for item in drawn), "what was drawn obeys the filter"
    assert len({item["item_id"] for item in items}) == 5
    assert answer["warnings"] == ["pin_not_shown"], "there is no slot 9"
    (impression,) = [event for event in logged(redis, settings) if isinstance(event, Impression)]
    assert impression.pinned == (0, 3) and {"film-9", "film-2"} <= set(impression.masked)
    assert impression.allowed is not None
    assert decode_mask(impression.allowed, N_ITEMS).nonzero()[0].tolist() == list(range(2, N_ITEMS, 3))
    again = recommend(shop, "ann", k=5, rules={"pins": pins[:1]})
    assert again["items"][0]["item_id"] == "film-9", "though it was seen"
    shop.patch("/items/film-9", json={"hidden": True}).raise_for_status()
    for excluded in ([], ["film-2"]):
        answer = recommend(shop, "bob", k=5, rules={"pins": pins[:2]}, exclude_item_ids=excluded)
        assert "film-9" not in [item["item_id"] for item in answer["items"]] and "pin_not_shown" in answer["warnings"]
        assert (answer["items"][3]["item_id"] == "film-2") == (excluded == [])


def test_a_pin_where_little_is_left(shop: httpx.Client) -> None:
    rules = {"pins": [{"slot": 4, "item_id": "film-9"}]}
    answer = recommend(shop, "ann", k=5, rules=rules, candidate_item_ids=["film-1", "film-2"])
    assert [item["item_id"] for item in answer["items"]][-1] == "film-9" and len(answer["items"]) == 3
    assert [item["slot"] for item in answer["items"]] == [0, 1, 2]
    assert answer["warnings"] == ["fewer_items_than_k"]


def test_at_most_so_many_of_a_kind(shop: httpx.Client) -> None:
    rules: dict[str, Any] = {"at_most": [{"of": "brand", "n": 2}, {"of": "tags", "n": 3}]}
    for user in range(20):
        numbers = [int(name[5:]) for name in shown(shop, f"u{user}", rules=rules, repeat="freely")]
        brands = [BRANDS[n % 3] for n in numbers]
        assert all(brands.count(brand) <= 2 for brand in BRANDS) and len(numbers) == 6
        assert sum(1 for n in numbers if n > 20) <= 3, "of a list each value counts"
    pinned = rules | {"pins": [{"slot": 5, "item_id": "film-0"}, {"slot": 6, "item_id": "film-3"}]}
    numbers = [int(name[5:]) for name in shown(shop, "pat", rules=pinned)]
    assert [n for n in numbers if n % 3 == 0] == [0, 3], "pinned ones count from the first slot on"
    assert "unknown_property" in recommend(shop, "x", rules={"at_most": [{"of": "weight", "n": 2}]})["warnings"]


def test_a_boost_changes_the_odds_by_what_it_says(shop: httpx.Client) -> None:
    """Two items alone: their odds are what the policy says times what the boost says, exactly."""
    two = {"candidate_item_ids": ["film-1", "film-2"], "k": 2, "repeat": "freely"}

    def scores(**body: Any) -> dict[str, float]:
        answer = recommend(shop, "ann", **two, history=[], **body)
        return {item["item_id"]: item["score"] for item in answer["items"]}

    plain = scores()
    boosts = [{"where": {"brand": "Initech"}, "by": 1.5}, {"where": {"price": {"<": 5}}, "by": 0.25}]
    boosted = scores(rules={"boosts": boosts})
    assert sum(boosted.values()) == pytest.approx(1.0)
    odds = (boosted["film-1"] / boosted["film-2"]) / (plain["film-1"] / plain["film-2"])
    assert odds == pytest.approx(2.718281828**1.5, rel=1e-5)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"boosts": [{"where": {"brand": "Acme"}, "by": 11}]}, "rules.boosts.0.by"),
        ({"boosts": [{"where": {"brand": None}, "by": 1}]}, "rules.boosts.0.where"),
        ({"pins": [{"slot": 0, "item_id": "a"}, {"slot": 0, "item_id": "b"}]}, "rules"),
        ({"pins": [{"slot": 100, "item_id": "a"}]}, "rules.pins.0.slot"),
        ({"at_most": [{"of": "brand", "n": 0}]}, "rules.at_most.0.n"),
        ({"at_most": [{"of": "", "n": 1}]}, "rules.at_most.0.of"),
        ({"shuffle": True}, "rules.shuffle"),
    ],
)
def test_what_no_rule_can_be_is_refused(api: httpx.Client, rules: dict[str, Any], field: str) -> None:
    problem = problem_of(api.post("/recommend", json={"user_id": "ann", "rules": rules}), 422)
    assert problem["errors"][0]["field"] == field


def test_a_placement_says_what_requests_leave_open(
    shop: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    home = {
        "k": 4,
        "filters": {"categories": ["Drama"], "where": {"price": {">": 4}}},
        "rules": {"pins": [{"slot": 0, "item_id": "film-8"}], "at_most": [{"of": "brand", "n": 1}]},
        "repeat": "freely",
    }
    assert shop.put("/placements/home", json=home).status_code == 201
    assert shop.put("/placements/home", json=home).status_code == 200
    stored = shop.get("/placements/home").json()
    assert stored["filters"] == home["filters"] and stored["k"] == 4
    items = recommend(shop, "ann", placement="home")["items"]
    numbers = [int(item["item_id"][5:]) for item in items]
    assert numbers[0] == 8 and len(numbers) == 3, "a pinned one and one of each other brand"
    assert all(n % 2 and n > 4 for n in numbers[1:])
    own = recommend(shop, "ann", placement="home", k=2, rules={}, filters={"where": {"price": {"<": 8}}})["items"]
    assert {item["item_id"] for item in own} == {"film-5", "film-7"}, "filters restrict further, rules replace"
    assert len(recommend(shop, "ann", placement="mail")["items"]) == 10, "a name alone is a label"
    impressions = [event for event in logged(redis, settings) if isinstance(event, Impression)]
    assert [one.placement for one in impressions] == ["home", "home", "mail"]
    assert list(shop.get("/placements").json()["placements"]) == ["home"]
    assert shop.delete("/placements/home").status_code == 204
    problem_of(shop.delete("/placements/home"), 404)
    problem_of(shop.get("/placements/home"), 404)
    assert len(recommend(shop, "bob", placement="home")["items"]) == 10
    problem = problem_of(shop.put("/placements/home", json={"filters": {"where": {"a": None}}}), 422)
    assert problem["errors"][0]["field"] == "filters.where"
    problem_of(shop.post("/recommend", json={"user_id": "ann", "placement": "a b"}), 422)


def test_a_page_shows_nothing_twice(shop: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    shop.put("/placements/also", json={"k": 3, "filters": {"where": {"price": {"<": 10}}}}).raise_for_status()
    slates = [{"placement": "top", "k": 6}, {"placement": "also"}, {"filters": {"categories": ["Drama"]}}]
    body = {"user_id": "ann", "slates": slates, "exclude_item_ids": ["film-1"], "include_items": True}
    answer = shop.post("/recommend:page", json=body)
    assert answer.status_code == 200, answer.text
    found = [[item["item_id"] for item in slate["items"]] for slate in answer.json()["slates"]]
    assert [len(slate) for slate in found][:2] == [6, 3]
    everything = [name for slate in found for name in slate]
    assert len(set(everything)) == len(everything) and "film-1" not in everything
    assert all(int(name[5:]) < 10 for name in found[1])
    assert answer.json()["slates"][0]["items"][0]["text"].startswith("Film number")
    impressions = [event for event in logged(redis, settings) if isinstance(event, Impression)]
    assert [list(one.items) for one in impressions] == found
    assert [one.placement for one in impressions] == ["top", "also", None]
    assert set(found[0]) <= set(impressions[1].masked), "so that the propensities are known from the log"
    for wrong, field in (([], "slates"), ([{"k": 0}], "slates.0.k"), ([{"user_id": "x"}], "slates.0.user_id")):
        problem = problem_of(shop.post("/recommend:page", json=body | {"slates": wrong}), 422)
        assert problem["errors"][0]["field"] == field


def test_a_patch_that_makes_too_many_properties_is_refused(shop: httpx.Client) -> None:
    more = {f"p{n}": n for n in range(28)}
    problem = problem_of(shop.patch("/items/film-3", json={"properties": more}), 422)
    assert problem["errors"][0]["field"] == "properties"
    gone = dict.fromkeys(("brand", "tags", "made", "sold_out"))
    changed = shop.patch("/items/film-3", json={"properties": more | gone})
    assert changed.json()["properties"] == more | {"price": 3}


def test_the_client_knows_them(http_api: httpx.Client) -> None:
    with Client(str(http_api.base_url)) as client:
        client.put_item("film-1", "Film number 1", categories=["Drama"], properties={"price": 5.0, "tags": ["a"]})
        assert client.item("film-1").properties == {"price": 5.0, "tags": ["a"]}
        rules = Rules(at_most=[AtMost(of="categories", n=1)])
        filters = Filters(where={"not": {"price": 5}})
        slate = client.recommend("ann", k=5, rules=rules, filters=filters, placement="home", include_items=True)
        assert len(slate.items) == 3 and "film-1" not in [item.item_id for item in slate.items]
        assert {item.text for item in slate.items} < {f"Film number {n}" for n in range(N_ITEMS)}
        changed = client.change_item("film-1", ItemPatch(properties={"price": 7}))
        assert changed.properties == {"price": 7, "tags": ["a"]} and changed.categories == ["Drama"]
        assert [item.item_id for item in client.newest(where={"price": {">": 6}}).items] == ["film-1"]
        client.put_placement("also", Placement(k=2, filters=Filters(categories=["Comedy"])))
        page = client.recommend_page(PageRequest(user_id="ann", slates=[PageSlate(k=3), PageSlate(placement="also")]))
        assert [len(slate.items) for slate in page.slates] == [3, 2]
