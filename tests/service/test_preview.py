"""POST /preview: the policy's own probabilities, by item and by category, and nothing that stays behind."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import numpy as np
import pytest
import redis as syncredis

from service.policy.adaptive import Distribution
from service.policy.sampling import Probs, slate_propensities
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.types import Interaction
from service.policy.variants import Arm
from service.serving import preview as previews
from service.settings import Settings
from service.store.keys import Keys
from tests.service.auth_examples import add_key, bearer
from tests.service.service_examples import (
    GENRES,
    N_ITEMS,
    Server,
    logged,
    problem_of,
    recommend,
    respond,
    serving,
    shown,
)

LIKED = [{"item_id": f"film-{n}", "reward": 1.0} for n in (1, 4, 7)]  # comedies
DISLIKED = [past | {"reward": -1.0} for past in LIKED]


def preview(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/preview", json=fields)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def probabilities(settings: Settings, rewards: dict[int, float], masked: set[int], arm: Arm) -> Probs:
    """The policy asked directly, [A]."""
    assert settings.snapshot is not None
    policy = load_snapshot(settings.snapshot).serving_policy(load_catalogue(settings.snapshot).embeddings)
    available = np.array([n not in masked for n in range(N_ITEMS)])
    past = [Interaction(item, reward) for item, reward in rewards.items()]
    return policy.distribution(past, available, arm).probs


@pytest.mark.parametrize("arm", ["control", "adaptive"])
def test_probabilities_are_the_policys(arm: str, api: httpx.Client, settings: Settings) -> None:
    """A slate of one: then shares of slots are the policy's probabilities themselves."""
    asked = [f"film-{n}" for n in (4, 29, 3)]
    excluded = ["film-0"]
    fields = {"history": LIKED, "baseline": DISLIKED, "arm": arm, "exclude_item_ids": excluded}
    told = preview(api, **fields, item_ids=[*asked, "nowhere"], k=1)
    masked = {0, 1, 4, 7}
    ours = probabilities(settings, dict.fromkeys((1, 4, 7), 1.0), masked, Arm(arm))
    theirs = probabilities(settings, dict.fromkeys((1, 4, 7), -1.0), masked, Arm(arm))
    assert told["arm"] == arm and told["policy_version"] == 1 and told["warnings"] == []
    assert [item["item_id"] for item in told["items"]] == asked
    for item in told["items"]:
        n = int(item["item_id"][5:])
        assert item["text"] == f"Film number {n}" and item["categories"] == [GENRES[n % 3]]
        assert item["probability"] == pytest.approx(ours[n], abs=1e-7)
        assert item["in_slate"] == pytest.approx(ours[n], abs=1e-7)
        assert item["baseline_in_slate"] == pytest.approx(theirs[n], abs=1e-7)
    assert [one["category"] for one in told["categories"]] == ["Western", "Drama", "Comedy"], "10, 9 and 7 are left"
    for one in told["categories"]:
        of = slice(GENRES.index(one["category"]), None, 3)
        assert one["share"] == pytest.approx(ours[of].sum(), abs=1e-6)
        assert one["baseline_share"] == pytest.approx(theirs[of].sum(), abs=1e-6)
    assert told["comparison"]["total_variation"] == pytest.approx(np.abs(ours - theirs).sum() / 2, abs=1e-6)
    many = preview(api, **fields, k=20)
    assert told["likeliest"][0]["item_id"] == f"film-{np.argmax(ours)}"
    of_slates = [item["in_slate"] for item in many["likeliest"]]
    assert len(of_slates) == 20 and of_slates == sorted(of_slates, reverse=True)
    for item in many["likeliest"]:
        assert item["probability"] == pytest.approx(ours[int(item["item_id"][5:])], abs=1e-7)
    for item in many["comparison"]["more_likely"]:
        assert item["baseline_in_slate"] < item["in_slate"]
    for item in many["comparison"]["less_likely"]:
        assert item["baseline_in_slate"] > item["in_slate"]


def exact_inclusion(mass: Probs, k: int) -> Probs:
    """Over all slates of `k`, by their Plackett-Luce probabilities."""
    included = np.zeros(len(mass))
    for slate in itertools.permutations(range(len(mass)), k):
        included[list(slate)] += slate_propensities(mass, np.array(slate)).prod()
    return included


@pytest.mark.parametrize("mass", [[0.4, 0.3, 0.2, 0.1, 0.0], [0.97, 0.01, 0.01, 0.009, 0.001], [0.2] * 5])
def test_what_a_slate_holds_is_on_average_what_all_slates_do(mass: list[float]) -> None:
    probs = np.array(mass)
    distribution = Distribution(probs, probs, probs, 0.0)
    told = [previews.preview(distribution, 5, 3, np.random.SeedSequence(seed)) for seed in range(100)]
    assert np.mean([one.in_slate for one in told], axis=0) == pytest.approx(exact_inclusion(probs, 3), abs=0.01)
    for one in told:
        assert one.shares.sum() == pytest.approx(1.0) and one.in_slate.max() <= 1.0
        assert one.in_slate == pytest.approx(exact_inclusion(probs, 3), abs=0.15)
        assert len(set(one.slate)) == 3


def test_a_policy_that_has_made_up_its_mind_is_no_trouble() -> None:
    """One item has nearly all: what the others get is not lost in rounding; short slates are of what there is."""
    probs = np.array([1.0, 3e-17, 1e-17, 0.0])
    told = previews.preview(Distribution(probs, probs, probs, 0.0), 4, 2, np.random.SeedSequence(1))
    assert told.in_slate == pytest.approx([1.0, 0.75, 0.25, 0.0], abs=0.05)
    told = previews.preview(Distribution(probs, probs, probs, 0.0), 4, 10, np.random.SeedSequence(1))
    assert told.in_slate == pytest.approx([1.0, 1.0, 1.0, 0.0]) and sorted(told.slate) == [0, 1, 2]


def test_numbers_of_some_items_become_numbers_of_all() -> None:
    probs, rows = np.array([0.6, 0.4]), np.array([1, 4])
    told = previews.preview(Distribution(probs, probs, probs, 0.0, rows), 6, 1, np.random.SeedSequence(0))
    assert told.in_slate.tolist() == pytest.approx([0, 0.6, 0, 0, 0.4, 0]) and told.slate[0] in (1, 4)


def test_an_item_counts_for_each_of_its_categories_once(api: httpx.Client) -> None:
    api.put("/items/film-0", json={"text": "Both", "categories": ["Comedy", "Drama", "Comedy"]}).raise_for_status()
    told = {one["category"]: one for one in preview(api, k=1)["categories"]}
    assert {name: one["items"] for name, one in told.items()} == {"Comedy": 11, "Drama": 10, "Western": 10}
    both = preview(api, item_ids=["film-0"])["items"][0]["probability"]
    assert sum(one["share"] for one in told.values()) == pytest.approx(1 + both)


def test_nothing_stays_behind(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    respond(api, {"event_id": "e", "user_id": "ann", "item_id": "film-1", "type": "like"})
    before, log = api.get("/users/ann").json(), logged(redis, settings)
    first = preview(api, user_id="ann", seed=3)
    assert preview(api, user_id="ann", seed=3) == first, "the same seed, the same slate"
    assert len({item["item_id"] for item in first["slate"]}) == 10 and first["comparison"] is None
    preview(api, user_id="nobody")
    preview(api, session_id="guest")
    assert api.get("/users/ann").json() == before and logged(redis, settings) == log
    problem_of(api.get("/users/nobody"), 404)


def test_a_users_session_is_what_recommend_sees(api: httpx.Client) -> None:
    slate = recommend(api, "ann", k=3)
    liked = shown(slate)[1]
    respond(api, {"event_id": "e", "user_id": "ann", "item_id": liked, "type": "like"})
    told = preview(api, user_id="ann", k=N_ITEMS)
    vain = [{"item_id": item, "reward": 0.0} for item in shown(slate) if item != liked]
    assert told["history"] == [{"item_id": liked, "reward": 1.0}, *vain]
    assert told["arm"] == slate["arm"] == api.get("/users/ann").json()["arm"]
    probability = {item["item_id"]: item["probability"] for item in told["likeliest"]}
    real = recommend(api, "ann", k=N_ITEMS)
    assert probability == {item["item_id"]: pytest.approx(item["score"]) for item in real["items"]}
    assert told["warnings"] == real["warnings"] == ["repeated_items"]


def test_restrictions_are_those_of_recommend(api: httpx.Client) -> None:
    told = preview(api, filters={"categories": ["Drama"]}, exclude_item_ids=["film-0"], k=20)
    assert {item["item_id"] for item in told["slate"]} == {f"film-{n}" for n in range(3, N_ITEMS, 3)}
    told = preview(api, candidate_item_ids=["film-1", "film-2", "nowhere"], k=2)
    assert sorted(item["item_id"] for item in told["slate"]) == ["film-1", "film-2"]
    assert told["warnings"] == ["unknown_candidates"]


def test_while_frozen_the_pretrained_policy_answers(api: httpx.Client) -> None:
    api.post("/policies:freeze").raise_for_status()
    told = preview(api, arm="adaptive")
    assert told["arm"] == "control"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"user_id": "a", "session_id": "b"}, ""),
        ({"arm": "best"}, "arm"),
        ({"k": 0}, "k"),
        ({"history": [{"item_id": "film-1", "reward": "much"}]}, "history.0.reward"),
        ({"seed": -1}, "seed"),
        ({"user": "ann"}, "user"),
    ],
)
def test_what_is_wrong_is_named(api: httpx.Client, fields: dict[str, Any], field: str) -> None:
    problem = problem_of(api.post("/preview", json=fields), 422)
    assert [error["field"] for error in problem["errors"]] == [field]


def test_without_a_policy_there_is_nothing_to_preview(settings: Settings) -> None:
    with Server(settings.model_copy(update={"snapshot": None})) as client:
        assert problem_of(client.post("/preview", json={}), 503)["code"] == "no_policy"


def test_it_needs_an_admin(settings: Settings, redis: syncredis.Redis) -> None:
    closed = settings.model_copy(update={"auth": "on"})
    serve, admin = (add_key(redis, Keys(closed.key_prefix), scope) for scope in ("serve", "admin"))
    with serving(closed) as client:
        problem_of(client.post("/preview", json={}, headers=bearer(serve)), 403)
        assert client.post("/preview", json={}, headers=bearer(admin)).status_code == 200
