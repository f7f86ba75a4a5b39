"""What Azure Personalizer's clients send is understood, answered in its shapes, logged and learned like any slate."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis as syncredis
from scipy.stats import chisquare

from service.api import personalizer
from service.contract.personalizer import RankRequest
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.text import TEXT_DIM
from service.policy.types import Interaction, Response
from service.policy.variants import Arm
from service.runtime import embedded
from service.serving.recommender import Recommender
from service.settings import Settings
from service.store.catalogue import ItemRecord
from service.store.events import Impression, ItemChanged
from service.store.keys import Keys
from service.store.sessions import Session
from tests.service.auth_examples import add_key
from tests.service.personalizer_examples import (
    BASES,
    DOCUMENTED,
    FILMS,
    activate,
    body_of,
    impressions,
    in_process,
    lasting_settings,
    probabilities,
    rank,
    reward,
)
from tests.service.service_examples import (
    N_ITEMS,
    Server,
    logged,
    make_settings,
    problem_of,
    respond,
    serving,
    until,
    until_ready,
)


@pytest.fixture
def settings(redis_url: str, snapshot_folder: Path, tmp_path: Path) -> Settings:
    return lasting_settings(redis_url, snapshot_folder, tmp_path)


@pytest.fixture(scope="module")
def lasting(redis_url: str, snapshot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One API for what is refused and leaves no trace."""
    with serving(make_settings(redis_url, snapshot_folder, tmp_path_factory.mktemp("lasting") / "personalizer")) as api:
        yield api


def test_the_documented_request_gets_the_documented_answer(
    api: httpx.Client, redis: syncredis.Redis, settings: Settings
) -> None:
    answer = api.post("/personalizer/v1.0/rank", json=DOCUMENTED)
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
    ranked = answer.json()
    assert set(ranked) == {"ranking", "eventId", "rewardActionId"}
    assert ranked["eventId"] == DOCUMENTED["eventId"]
    assert all(set(action) == {"id", "probability"} for action in ranked["ranking"])
    assert ranked["ranking"][1] == {"id": "SportsArticle", "probability": 0.0}
    assert ranked["rewardActionId"] == ranked["ranking"][0]["id"] in ("NewsArticle", "EntertainmentArticle")
    assert sum(probabilities(ranked).values()) == pytest.approx(1.0)
    assert api.get("/items/NewsArticle").json()["text"] == "type: News"
    (impression,) = impressions(redis, settings)
    assert impression.items == (ranked["rewardActionId"],)
    assert impression.propensities == (probabilities(ranked)[ranked["rewardActionId"]],)
    assert impression.masked == ("SportsArticle",)
    assert set(impression.candidates or ()) == {"NewsArticle", "SportsArticle", "EntertainmentArticle"}
    assert impression.user == f"s:{DOCUMENTED['eventId']}", "who names nobody is a visitor of their own"


def test_all_versions_are_answered_alike(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    for n, base in enumerate(BASES):
        event, quoted = f"an/event of ü\n{n}", f"an%2Fevent%20of%20%C3%BC%0A{n}"
        ranked = rank(api, *FILMS, base=base, eventId=event, deferActivation=True)
        assert ranked["eventId"] == event
        assert (activate(api, quoted, base), reward(api, quoted, base=base)) == (204, 204)
        query = "?api-version=2022-09-01-preview"
        assert api.post(f"{base}/rank{query}", json=body_of("film-1")).status_code == 201
        assert api.post(f"{base}/events/{quoted}/reward{query}", json={"value": 1}).status_code == 204
        assert redis.xlen(keys.events) == 3 * (n + 1)


@pytest.mark.parametrize(
    "path",
    [
        "personalizer/v2.0/rank",
        "personalizer/v1.1-preview/rank",
        "personalizer/v1.1-preview.٣/rank",
        "personalizer/v1.0/multislot/rank",
        "personalizer/multislot/rank",
        "personalizer/v1.0/configurations/service",
        "personalizer/v1.0/evaluations",
        "personalizer/v1.0/events/e/interactions",
        "v1/personalizer/rank",
    ],
)
def test_what_is_not_here(lasting: httpx.Client, path: str) -> None:
    problem_of(lasting.post(f"/{path}", json=body_of("film-1")), 404)


def test_probabilities_are_the_policys(settings: Settings) -> None:
    """Of the arm's policy, in the state that the session makes, over what is allowed."""
    with serving(settings.model_copy(update={"control_share": 1.0})) as client:
        event = {"event_id": "e", "user_id": "ann", "item_id": "film-1", "type": "like"}
        respond(client, event, event | {"event_id": "f", "item_id": "film-8", "type": "dislike"})
        ranked = rank(client, *FILMS, contextFeatures=[{"userId": "ann"}], excludedActions=["film-2"])
        assert settings.snapshot is not None
        snapshot = load_snapshot(settings.snapshot)
        policy = snapshot.serving_policy(load_catalogue(settings.snapshot).embeddings)
        available = np.zeros(N_ITEMS, np.bool_)
        available[[1, 3, 7]] = True
        history = [Interaction(1, Response.POSITIVE), Interaction(8, Response.NEGATIVE)]
        expected = policy.distribution(history, available, Arm.CONTROL).probs
        for item, probability in probabilities(ranked).items():
            assert probability == pytest.approx(expected[int(item[5:])], rel=1e-5), item
        assert expected[1] > 0, "what was seen can be shown again"


def test_the_one_to_show_comes_first_and_what_is_excluded_keeps_its_place(api: httpx.Client) -> None:
    api.put("/items/film-5", json={"text": "Hidden", "hidden": True})
    api.delete("/items/film-6")
    asked = ["film-9", "film-1", "film-5", "film-2", "film-3", "film-6", "film-4"]
    firsts = set()
    for n in range(12):
        ranked = rank(api, *asked, excludedActions=["film-9", "film-3"], contextFeatures=[{"userId": f"u{n}"}])
        ids = [action["id"] for action in ranked["ranking"]]
        assert [ids[place] for place in (0, 2, 4, 5)] == ["film-9", "film-5", "film-3", "film-6"]
        given = probabilities(ranked)
        assert [given[item] for item in ("film-9", "film-5", "film-3", "film-6")] == [0.0] * 4
        free = [item for item in ids if item not in ("film-9", "film-5", "film-3", "film-6")]
        assert free[0] == ranked["rewardActionId"]
        assert given[free[1]] >= given[free[2]] > 0
        assert sum(given.values()) == pytest.approx(1.0)
        firsts.add(free[0])
    assert len(firsts) > 1, "not always the likeliest"


@pytest.mark.parametrize(
    ("fields", "named", "code"),
    [
        ({"actions": [{"id": "film-1"}, {"id": "film-2"}, {"id": "film-1"}]}, ["actions.2.id"], "repeated_id"),
        ({"excludedActions": ["film-1", "film-9"]}, ["excludedActions.1"], "unknown_action"),
        ({"excludedActions": FILMS}, ["actions"], "nothing_left"),
        ({"actions": []}, ["actions"], "too_short"),
        ({"actions": [{"id": f"film-{n}"} for n in range(51)]}, ["actions"], "too_long"),
        ({"actions": [{"id": "film-1", "Features": []}]}, ["actions.0.Features"], "extra_forbidden"),
        ({"actions": [{"id": ""}]}, ["actions.0.id"], "string_too_short"),
        ({"context_features": []}, ["context_features"], "extra_forbidden"),
        ({"contextFeatures": {"userId": "ann"}}, ["contextFeatures"], "list_type"),
        ({"contextFeatures": ["ann"]}, ["contextFeatures.0"], "dict_type"),
        ({"contextFeatures": [{}, {"userId": "é" * 129}]}, ["contextFeatures.1.userId"], "value_error"),
        ({"contextFeatures": [{"session_id": "\ud83d"}]}, ["contextFeatures.0.session_id"], "string_unicode"),
        ({"eventId": ""}, ["eventId"], "string_too_short"),
        ({"eventId": "x" * 257}, ["eventId"], "string_too_long"),
        ({"deferActivation": "no"}, ["deferActivation"], "bool_type"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_wrong_is_named(lasting: httpx.Client, fields: dict[str, Any], named: list[str], code: str) -> None:
    headers = {"content-type": "application/json"}
    answer = lasting.post("/personalizer/rank", content=json.dumps(body_of(*FILMS) | fields), headers=headers)
    problem = problem_of(answer, 422)
    assert [error["field"] for error in problem["errors"]] == named
    assert problem["errors"][0]["code"] == code
    assert "ialp_impressions_total{" not in lasting.get("/metrics").text


def test_nulls_are_as_if_nothing_was_sent(api: httpx.Client) -> None:
    nothing = dict.fromkeys(("contextFeatures", "excludedActions", "eventId", "deferActivation"))
    body = {"actions": [{"id": "film-1", "features": None}, {"id": "film-2"}], **nothing}
    one, other = (api.post("/personalizer/rank", json=body).json() for _ in range(2))
    assert one["eventId"] != other["eventId"]
    assert reward(api, one["eventId"]) == reward(api, other["eventId"]) == 204


def test_if_all_are_hidden_or_deleted_nothing_is_left(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    api.put("/items/film-1", json={"text": "Hidden", "hidden": True})
    api.delete("/items/film-2")
    before = redis.xlen(keys.events)
    answer = api.post("/personalizer/rank", json=body_of("film-1", "film-2", "film-3", excludedActions=["film-3"]))
    assert problem_of(answer, 422)["errors"][0]["code"] == "nothing_left"
    assert redis.xlen(keys.events) == before
    assert api.get("/items/film-2").status_code == 404, "and it is not brought back"


def test_new_actions_become_items_with_texts(api: httpx.Client, redis: syncredis.Redis, settings: Settings) -> None:
    markup = "<b>Bold</b> & {{7*7}} \u202e"
    features = [{"title": markup}, {"nested": {"lang": "en"}}]
    actions = [{"id": "new/1", "features": features}, {"id": "new-2\0"}, {"id": "film-1", "features": features}]
    for _ in range(2):
        answer = api.post("/personalizer/rank", json={"actions": actions})
        assert answer.status_code == 201, answer.text
        assert {action["id"] for action in answer.json()["ranking"]} == {"new/1", "new-2\0", "film-1"}
    assert api.get("/items/new%2F1").json()["text"] == f"{markup}; lang: en"
    assert api.get("/items/new-2%00").json()["text"] == "new-2\0"
    assert api.get("/items/film-1").json()["text"] == "Film number 1", "what is known is not changed"
    events = logged(redis, settings)
    assert [type(event) for event in events] == [ItemChanged, ItemChanged, Impression, Impression]


def test_lone_surrogates_in_features_hurt_nobody(api: httpx.Client) -> None:
    for feature in ('{"a": {"\\ud800": "\\udfff y"}}', '{"\\ud800": 1}', '{"a": "\\ud800"}'):
        sent = f'{{"actions": [{{"id": "x", "features": [{feature}]}}], "contextFeatures": [{feature}]}}'
        answer = api.post("/personalizer/rank", content=sent, headers={"content-type": "application/json"})
        assert answer.status_code == 201, answer.text
    assert api.get("/items/x").json()["text"] == ":  y"


def test_scopes(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    """A key that may serve makes no items; the header is the one that Azure's clients send."""
    tokens: dict[tuple[str, ...], str] = {
        scopes: add_key(redis, keys, *scopes) for scopes in (("serve",), ("feedback",), ("serve", "admin"))
    }
    with serving(settings.model_copy(update={"auth": "on"})) as client:

        def post(scopes: tuple[str, ...], path: str, body: object) -> httpx.Response:
            headers = {"Ocp-Apim-Subscription-Key": tokens[scopes]}
            return client.post(f"/personalizer/v1.0/{path}", json=body, headers=headers)

        new = body_of("film-1", "new-1", "film-2", "new-2")
        problem = problem_of(post(("serve",), "rank", new), 422)
        assert problem["code"] == "unknown_action"
        assert [error["field"] for error in problem["errors"]] == ["actions.1.id", "actions.3.id"]
        assert "PUT /items" in problem["detail"] and "scope admin" in problem["detail"]
        assert redis.xlen(keys.events) == 0
        assert post(("serve", "admin"), "rank", new).status_code == 201
        event = post(("serve",), "rank", new).json()["eventId"]
        problem_of(post(("serve",), f"events/{event}/reward", {"value": 1.0}), 403)
        problem_of(post(("serve",), f"events/{event}/activate", None), 403)
        problem_of(post(("feedback",), "rank", new), 403)
        assert post(("feedback",), f"events/{event}/reward", {"value": 1.0}).status_code == 204
        problem_of(client.post("/personalizer/v1.0/rank", json=new), 401)


def test_histories_make_a_difference(api: httpx.Client) -> None:
    """In this snapshot profiles of liked text weigh: comedies get likelier for who likes a comedy."""
    kinds = {"fan": "film-1", "other": "film-3"}
    for user, liked in kinds.items():
        for n in range(3):
            event = rank(api, liked, contextFeatures=[{"userId": user}])["eventId"]
            assert reward(api, event) == 204, n
        history = api.get(f"/users/{user}").json()["history"]
        assert history == [{"item_id": liked, "reward": 1.0}], "once, however often"
    fan, other, nobody = (
        probabilities(rank(api, "film-4", "film-6", "film-8", contextFeatures=[{"userId": user}]))
        for user in ("fan", "other", "stranger")
    )
    assert fan["film-4"] > nobody["film-4"] > other["film-4"]
    assert other["film-6"] > nobody["film-6"] > fan["film-6"]


async def test_actions_are_drawn_as_often_as_their_probabilities_say(settings: Settings) -> None:
    n, counts, expected = 1_500, dict.fromkeys(FILMS, 0), dict.fromkeys(FILMS, 0.0)
    async with in_process(settings.model_copy(update={"control_share": 0.0})) as state:
        for start in range(0, n, 50):
            asked = [RankRequest.model_validate(body_of(*FILMS, eventId=f"{start}-{i}")) for i in range(50)]
            for answer in await asyncio.gather(*(personalizer.rank(request, False, state) for request in asked)):
                counts[answer.reward_action_id] += 1
                for action in answer.ranking:
                    expected[action.id] += action.probability
    assert min(expected.values()) > 50
    assert chisquare([counts[f] for f in FILMS], [expected[f] for f in FILMS]).pvalue > 1e-3


async def test_what_is_put_meanwhile_stays_as_it_was_put(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, between the look at the catalogue and the adding of what was missing there."""
    load = Recommender.session

    async def overtaken(recommender: Recommender, user: str, visitor: str | None = None) -> Session | None:
        session = await load(recommender, user, visitor)
        texts = [("put", ItemRecord("Put by hand", bytes(2 * TEXT_DIM))), ("gone", ItemRecord("", b"", deleted=True))]
        await state.watch.store.put(texts)
        return session

    monkeypatch.setattr(Recommender, "session", overtaken)
    async with in_process(settings) as state:
        request = RankRequest.model_validate(body_of("put", "gone", "new"))
        ranked = await personalizer.rank(request, True, state)
        stored = await state.watch.store.get_many(["put", "gone", "new"])
    assert [(record.text, record.deleted) for record in stored] == [("Put by hand", False), ("", True), ("new", False)]
    assert {action.id for action in ranked.ranking if action.probability > 0} == {"put", "new"}


def test_the_kill_switch_turns_every_arm_into_the_control(
    api: httpx.Client, redis: syncredis.Redis, settings: Settings
) -> None:
    """Ranked by the pre-trained policy then, as every slate is: nothing of the mixture is left in what is logged."""
    users = [{"userId": f"u{n}"} for n in range(8)]
    for context in users:
        rank(api, *FILMS, contextFeatures=[context])
    assert api.post("/policies:freeze").status_code == 200
    until(lambda: api.get("/policies").json()["mode"] == "frozen", "the kill switch")
    for context in users:
        rank(api, *FILMS, contextFeatures=[context])
    shown = impressions(redis, settings)
    assert {"control", "adaptive"} == {one.arm for one in shown}
    assert any(one.weight > 0 for one in shown[:8])
    assert all(one.weight == 0 for one in shown[8:])


def test_without_a_policy_it_says_so(settings: Settings) -> None:
    with Server(settings.model_copy(update={"snapshot": None})) as client:
        until(lambda: "redis_unavailable" not in client.get("/readyz").json()["reasons"], "Redis")
        answer = client.post("/personalizer/v1.0/rank", json=DOCUMENTED)
        assert problem_of(answer, 503)["code"] == "no_policy" and answer.headers["retry-after"] == "1"


def test_without_redis_known_actions_are_ranked_from_memory(snapshot_folder: Path, tmp_path: Path) -> None:
    server = embedded.serving(tmp_path / "redis")
    url = server.__enter__()
    settings = make_settings(url, snapshot_folder, tmp_path / "service", reward_window_s=90)
    with serving(settings) as client:
        before = rank(client, *FILMS)["eventId"]
        server.__exit__(None, None, None)
        during = rank(client, *FILMS, contextFeatures=[{"userId": "ann"}])
        assert sum(probabilities(during).values()) == pytest.approx(1.0)
        problem_of(client.post("/personalizer/rank", json=body_of("film-1", "new")), 503)
        for event in (before, during["eventId"]):
            for path, body in (("reward", {"value": 1.0}), ("activate", None)):
                answer = client.post(f"/personalizer/events/{event}/{path}", json=body)
                assert problem_of(answer, 503)["code"] == "storage_unavailable"
        with embedded.serving(tmp_path / "redis"):
            until_ready(client)
            assert (reward(client, before), reward(client, during["eventId"])) == (204, 404)
