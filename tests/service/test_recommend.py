"""POST /recommend over real HTTP and a real Redis-protocol server."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

import httpx
import pytest
import redis as syncredis

from service.serving import slates
from service.serving.slates import SlateWarning
from service.settings import Settings
from service.store.keys import Keys
from tests.service.service_examples import (
    N_ITEMS,
    Server,
    make_settings,
    problem_of,
    recommend,
    respond,
    serving,
    shown,
    until,
)


def test_a_user_never_seen_gets_a_slate(api: httpx.Client) -> None:
    answer = api.post("/recommend", json={"user_id": "ann", "k": 5})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["policy_version"] == 1
    assert [item["slot"] for item in body["items"]] == [0, 1, 2, 3, 4]
    assert len({item["item_id"] for item in body["items"]}) == 5
    assert all(0 < item["propensity"] <= 1 and 0 < item["score"] <= 1 for item in body["items"])
    assert {item["source"] for item in body["items"]} <= {"pretrained", "learned"}
    assert body["warnings"] == []
    assert answer.headers["x-request-id"]
    assert len(api.post("/v1/recommend", json={"session_id": "ann"}).json()["items"]) == 10


def test_scores_are_the_policy_and_the_first_propensity_is_its_score(api: httpx.Client) -> None:
    slate = recommend(api, "ann", k=N_ITEMS)
    assert sum(item["score"] for item in slate["items"]) == pytest.approx(1.0)
    left = 1.0
    for item in slate["items"]:
        assert item["propensity"] == pytest.approx(item["score"] / left, rel=1e-6)
        left -= item["score"]


def test_a_catalogue_shorter_than_k_gives_a_short_slate(api: httpx.Client) -> None:
    slate = recommend(api, "ann", k=100)
    assert len(shown(slate)) == N_ITEMS
    assert slate["warnings"] == ["fewer_items_than_k"]


def test_nothing_is_shown_twice_until_all_is_seen(api: httpx.Client) -> None:
    excluded = ["film-0", "film-1", "no-such-film"]
    respond(api, {"event_id": "e", "user_id": "ann", "item_id": "film-2", "type": "click"})
    api.put("/items/film-3", json={"text": "Hidden", "hidden": True})
    api.delete("/items/film-4")
    seen: list[str] = []
    for _ in range(9):
        seen += shown(recommend(api, "ann", k=3, exclude_item_ids=excluded, repeat="never"))
    assert len(seen) == len(set(seen)) == N_ITEMS - 5
    assert not {f"film-{n}" for n in range(5)} & set(seen)
    last = recommend(api, "ann", exclude_item_ids=excluded, repeat="never")
    assert (last["items"], last["warnings"]) == ([], ["no_items_left", "fewer_items_than_k"])
    assert set(shown(recommend(api, "ann", repeat="never"))) == {"film-0", "film-1"}


def test_a_shelf_never_runs_dry_and_what_is_shown_again_was_seen_the_longest_ago(api: httpx.Client) -> None:
    pages = [recommend(api, "ann", k=7) for _ in range(12)]
    assert all(len(shown(page)) == 7 for page in pages)
    assert [page["warnings"] for page in pages[:5]] == [[]] * 4 + [["repeated_items"]], "30 films"
    assert len({item for page in pages[:4] for item in shown(page)}) == 28
    last_sight: dict[str, int] = {}
    for number, page in enumerate(pages):
        ages = [last_sight.get(item, -1) for item in shown(page)]
        assert max(ages) <= sorted(last_sight.get(f"film-{n}", -1) for n in range(N_ITEMS))[N_ITEMS // 2]
        last_sight |= dict.fromkeys(shown(page), number)
    assert all(0 < item["propensity"] <= 1 for page in pages for item in page["items"])


def test_all_of_a_small_shop_comes_again_though_nobody_answers_any_more(api: httpx.Client) -> None:
    kind = {"filters": {"categories": ["Drama"]}}
    dramas = {f"film-{n}" for n in range(0, N_ITEMS, 3)}
    for item in sorted(dramas):
        respond(api, {"event_id": item, "user_id": "ann", "item_id": item, "type": "click"})
    again = [shown(recommend(api, "ann", k=2, **kind)) for _ in range(40)]
    assert {item for page in again for item in page} == dramas


@pytest.mark.parametrize("what", [{"filters": {"categories": ["Drama"]}}, {"candidate_item_ids": ["film-0", "film-3"]}])
def test_filters_and_named_items_never_run_dry_either(api: httpx.Client, what: dict[str, Any]) -> None:
    wanted = {f"film-{n}" for n in range(0, N_ITEMS, 3)} if "filters" in what else {"film-0", "film-3"}
    slates = [recommend(api, "ann", k=len(wanted), exclude_item_ids=["film-9"], **what) for _ in range(3)]
    assert [set(shown(slate)) for slate in slates] == [wanted - {"film-9"}] * 3
    assert "repeated_items" in slates[1]["warnings"]


def test_freely_repeats_from_the_first_page_on(api: httpx.Client) -> None:
    pages = [recommend(api, "ann", k=20, repeat="freely") for _ in range(2)]
    assert [(len(shown(page)), page["warnings"]) for page in pages] == [(20, [])] * 2
    assert set(shown(pages[0])) & set(shown(pages[1]))
    assert set(shown(recommend(api, "ann", k=30, repeat="freely", exclude_item_ids=["film-1"]))) == {
        f"film-{n}" for n in range(N_ITEMS) if n != 1
    }


def test_only_candidates_and_categories_are_shown(api: httpx.Client) -> None:
    slate = recommend(api, "a", candidate_item_ids=["film-1", "film-2", "no-such-film"])
    assert set(shown(slate)) == {"film-1", "film-2"}
    assert slate["warnings"] == ["unknown_candidates", "fewer_items_than_k"]
    assert recommend(api, "b", candidate_item_ids=[])["items"] == []
    dramas = shown(recommend(api, "c", k=30, filters={"categories": ["Drama"]}))
    assert sorted(dramas) == sorted(f"film-{n}" for n in range(0, N_ITEMS, 3))
    both = recommend(api, "d", k=30, filters={"categories": ["Drama", "Western"]})
    assert len(shown(both)) == 20
    one = recommend(api, "e", filters={"categories": ["Drama"]}, candidate_item_ids=["film-0", "film-1"])
    assert shown(one) == ["film-0"]
    assert recommend(api, "f", filters={"categories": ["Nowhere"]})["items"] == []
    assert len(recommend(api, "g", k=30, filters={})["items"]) == 30


def test_a_request_can_carry_its_history(api: httpx.Client) -> None:
    history = [{"item_id": "film-1", "reward": 1.0}, {"item_id": "film-4"}, {"item_id": "gone", "reward": -1.0}]
    slate = recommend(api, "ann", k=30, history=history, repeat="never")
    assert len(shown(slate)) == 28 and not {"film-1", "film-4"} & set(shown(slate))
    comedies = sum(item["score"] for item in slate["items"] if int(item["item_id"][5:]) % 3 == 1)
    fresh = recommend(api, "bob", k=30, exclude_item_ids=["film-1", "film-4"])
    assert comedies > sum(item["score"] for item in fresh["items"] if int(item["item_id"][5:]) % 3 == 1)
    problem_of(api.get("/users/bert"), 404)


def test_arms_are_fixed_by_user_and_near_their_share(api: httpx.Client, settings: Settings) -> None:
    arms = {user: recommend(api, user, k=1)["arm"] for user in (f"u{n}" for n in range(200))}
    share = sum(arm == "control" for arm in arms.values()) / len(arms)
    assert share == pytest.approx(settings.control_share, abs=0.12)
    again = {user: recommend(api, user, k=1)["arm"] for user in list(arms)[:20]}
    assert again.items() <= arms.items()


def test_a_seed_makes_slates_reproducible(redis_url: str, settings: Settings) -> None:
    slates = []
    for name in ("one", "other"):
        deployment = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{name}"})
        with serving(deployment) as client:
            slates.append([shown(recommend(client, f"u{n}", k=4)) for n in range(5)])
    assert slates[0] == slates[1]


def test_without_a_policy_popularity_then_catalogue_order(
    settings: Settings, redis: syncredis.Redis, api: httpx.Client, keys: Keys
) -> None:
    for n, film in enumerate((7, 7, 5, 9)):
        respond(api, {"event_id": str(n), "user_id": f"u{n}", "item_id": f"film-{film}", "type": "click"})
    redis.delete(keys.live)
    until(lambda: api.get("/readyz").status_code == 503, "unreadiness")
    assert api.get("/readyz").json()["reasons"] == ["no_policy"]
    slate = recommend(api, "ann", k=5, exclude_item_ids=["film-9"])
    assert shown(slate) == ["film-7", "film-5", "film-0", "film-1", "film-2"]
    assert [item["source"] for item in slate["items"]] == ["popularity"] * 2 + ["catalogue"] * 3
    assert (slate["policy_version"], slate["arm"], slate["warnings"]) == (0, "fallback", ["no_policy"])
    assert shown(recommend(api, "u2", k=1)) == ["film-7"], "seen items are not shown here either"


def test_an_empty_deployment_answers(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Server(make_settings(redis_url, None, tmp_path_factory.mktemp("empty"))) as client:
        slate = recommend(client, "ann")
        assert slate["items"] == []
        assert slate["warnings"] == ["no_policy", "catalogue_empty", "fewer_items_than_k"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["no_policy"])
        assert client.get("/healthz").json()["status"] == "ok"
        empty: dict[str, object] = {
            "live_version": None,
            "mode": None,
            "shadow_version": None,
            "policies": [],
            "rollbacks": [],
        }
        assert client.get("/policies").json() == empty
        assert problem_of(client.post("/policies:freeze"), 409)["code"] == "conflict"
        nothing: dict[str, object] = {
            "arms": {},
            "placements": {},
            "off_policy": {},
            "shadow": None,
            "watch": [],
            "power": None,
            "alignment": {},
        }
        assert client.get("/evaluation").json() == nothing
        assert client.get("/metrics").status_code == 200


def test_a_category_that_no_item_has_is_told_from_one_that_is_used_up(api: httpx.Client) -> None:
    def warnings(user: str, *categories: str, **fields: Any) -> list[str]:
        found: list[str] = recommend(api, user, k=30, filters={"categories": [*categories]}, **fields)["warnings"]
        return found

    assert warnings("ann", "Nowhere") == ["unknown_category", "fewer_items_than_k"]
    assert warnings("ann", "Drama", "Nowhere") == ["unknown_category", "fewer_items_than_k"]
    assert warnings("ann", "Drama", repeat="never") == ["no_items_left", "fewer_items_than_k"]
    assert warnings("ben", "Drama") == ["fewer_items_than_k"]
    api.put("/items/new", json={"text": "New", "categories": ["Nowhere"]})
    assert warnings("eve", "Nowhere") == ["fewer_items_than_k"]
    preview = api.post("/preview", json={"user_id": "ann", "filters": {"categories": ["drama"]}})
    assert preview.json()["warnings"] == ["unknown_category", "fewer_items_than_k"]


def test_every_warning_that_a_slate_may_have_is_in_the_document_with_its_meaning(api: httpx.Client) -> None:
    """mypy holds the code to `SlateWarning`: it can send no other."""
    can_be_sent = list(get_args(SlateWarning))
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    for name in ("RecommendResponse", "PreviewResponse"):
        field = schemas[name]["properties"]["warnings"]
        assert field["items"]["enum"] == sorted(can_be_sent)
        for code in can_be_sent:
            assert re.search(rf"`{code}`: [A-Z].+?\.", field["description"]), code
    assert get_type_hints(slates.Slate)["warnings"] == list[SlateWarning]
