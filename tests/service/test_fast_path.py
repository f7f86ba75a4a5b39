"""What the hot path takes is what the route would take, with the same meaning; all else is the route's."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import redis as syncredis
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare

from service.api.fast_path import FastRequest, FastResponse, decoded, fast_request
from service.contract.schemas import RecommendedItem, RecommendRequest, RecommendResponse
from service.policy.adaptive import Query
from service.policy.snapshot_files import load_catalogue, load_snapshot
from service.policy.text import Embeddings
from service.serving import slates
from service.settings import Settings
from service.store.keys import Keys
from tests.service.auth_examples import add_key, bearer
from tests.service.service_examples import N_ITEMS, recommend, respond, serving_http, until

IDS = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["ann", "", "é" * 128, "é" * 129, "a" * 256, "a" * 257, "\ud83d", "\\", "\u2028", "\x00"]),
)
NUMBERS = st.one_of(
    st.integers(-2, 110), st.floats(), st.sampled_from([10.0, 1e6, 1e6 + 1, -1e6, 2**70, True, False, None, "5"])
)
PAST = st.fixed_dictionaries({}, optional={"item_id": IDS, "reward": NUMBERS, "more": NUMBERS})
SAID = st.one_of(
    IDS, NUMBERS, st.lists(NUMBERS, max_size=2), st.dictionaries(st.sampled_from(["<", "=", "in"]), NUMBERS)
)
WHERE = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(["price", "price\n", "or", "not", "2nd"]), SAID, max_size=2),
    st.fixed_dictionaries({"not": st.dictionaries(st.just("price"), SAID)}),
)
CATEGORIES = st.one_of(st.none(), st.lists(IDS, max_size=3))
NAMES = st.sampled_from(["price", "categories", "price\n", "", "a b"])
RULES = st.fixed_dictionaries(
    {},
    optional={
        "pins": st.lists(st.fixed_dictionaries({"slot": NUMBERS, "item_id": IDS}), max_size=2),
        "boosts": st.lists(st.fixed_dictionaries({"where": WHERE, "by": NUMBERS}), max_size=2),
        "at_most": st.lists(st.fixed_dictionaries({"of": NAMES, "n": NUMBERS}), max_size=2),
        "new_items": st.one_of(st.none(), st.fixed_dictionaries({"share": NUMBERS, "within_days": NUMBERS})),
        "more": NUMBERS,
    },
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.one_of(IDS, st.none(), st.integers()),
        "session_id": st.one_of(IDS, st.none()),
        "k": NUMBERS,
        "context": st.one_of(
            st.none(), st.dictionaries(IDS, st.one_of(NUMBERS, IDS, st.none(), st.lists(IDS, max_size=2)), max_size=2)
        ),
        "candidate_item_ids": st.one_of(st.none(), st.lists(IDS, max_size=3), IDS),
        "exclude_item_ids": st.one_of(st.none(), st.lists(IDS, max_size=3)),
        "filters": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {}, optional={"categories": st.one_of(st.none(), st.lists(IDS, max_size=3)), "where": WHERE}
            ),
        ),
        "history": st.one_of(st.none(), st.lists(PAST, max_size=3)),
        "rules": st.one_of(st.none(), RULES),
        "repeat_after_days": st.one_of(st.none(), NUMBERS),
        "exclude_feedback_types": st.lists(st.sampled_from(["purchase", "view\n", "", "a b", "x" * 65]), max_size=2),
        "placement": st.one_of(st.none(), st.sampled_from(["home", "home\n", "", "a b", "x" * 65])),
        "include_items": st.one_of(st.booleans(), NUMBERS),
        "unknown": IDS,
    },
)
USUAL = {"user_id": "ann", "k": 5, "exclude_item_ids": ["film-1"], "history": [{"item_id": "film-2", "reward": 1.0}]}


def by_the_route(body: bytes) -> RecommendRequest | None:
    """As FastAPI reads it; None where that is an error."""
    try:
        return RecommendRequest.model_validate(json.loads(body))
    except (ValidationError, ValueError):
        return None


@settings(max_examples=1_000, deadline=None)
@given(BODIES, st.booleans())
@example(USUAL, True)
@example({"user_id": "ann"}, False)
@example({"user_id": "ann", "context": {"a": "b", "c": 2, "d": True, "e": ["f"], "g": None, "h": 2.5}}, True)
@example({"user_id": "ann", "context": {"\ud800": 1}}, True)
@example({"user_id": "ann", "context": {"a": ["\ud800"]}}, True)
@example({"user_id": "ann", "context": {str(n): ["x"] * 16 for n in range(5)}}, True)
@example({"session_id": "é" * 128}, False)
@example({"session_id": "é" * 129}, False)
@example({"user_id": "ann", "k": 10.0}, True)
@example({"user_id": "ann", "filters": {"where": {"price": {"<": 5}}}, "placement": "home"}, True)
@example({"user_id": "ann", "rules": {"boosts": [{"where": {"price": 5}, "by": 11}]}}, True)
@example({"user_id": "ann", "rules": {"pins": [{"slot": 1, "item_id": "é" * 129}]}}, False)
@example({"user_id": "ann", "history": [{"item_id": "film-1"}], "filters": {"categories": None}}, True)
def test_what_is_taken_would_be_valid_and_mean_the_same(body: dict[str, Any], as_ascii: bool) -> None:
    sent = json.dumps(body, ensure_ascii=as_ascii).encode(errors="surrogatepass")
    ask = decoded(sent)
    if ask is not None:
        request = by_the_route(sent)
        assert request is not None, "not for the hot path"
        assert ask == fast_request(request)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_bytes_hurt_it(body: bytes) -> None:
    ask = decoded(body)
    assert ask is None or by_the_route(body) is not None


def test_the_usual_is_taken() -> None:
    for body in (USUAL, {"user_id": "ann"}, {"session_id": "s"}, {"user_id": "ann", "filters": {"categories": ["a"]}}):
        assert decoded(json.dumps(body).encode()) == fast_request(RecommendRequest.model_validate(body))


def test_both_know_the_same_fields() -> None:
    """A field that is new in the contract must be told here, or be left to the route on purpose."""
    assert {field.name for field in msgspec.structs.fields(FastRequest)} == RecommendRequest.model_fields.keys()
    assert {field.name for field in msgspec.structs.fields(FastResponse)} == RecommendResponse.model_fields.keys()
    assert {field.name for field in msgspec.structs.fields(slates.Slot)} == RecommendedItem.model_fields.keys()


@pytest.mark.parametrize("path", ["/recommend", "/v1/recommend"])
def test_both_ways_give_the_same_answer(settings: Settings, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed, once by the hot path and once by the route; and the answer is what the contract says."""
    asked, answers = [], []

    def noted(request: RecommendRequest) -> FastRequest:
        asked.append(request)
        return fast_request(request)

    monkeypatch.setattr("service.api.fast_path.fast_request", noted)
    for number, more in enumerate(({}, {"context": {"large": 2**60}})):
        changed = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}:{number}"})
        changed = changed.model_copy(update={"data_dir": settings.data_dir / str(number)})
        with serving_http(changed) as client:
            answer = client.post(path, json={"user_id": "ann", "k": 4} | more)
            metrics = client.get("/metrics").text
        assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
        counted = [line for line in metrics.splitlines() if "duration_seconds_count" in line and "POST" in line]
        assert len(counted) == 1 and 'http_route="/recommend"' in counted[0] and counted[0].endswith(" 1.0")
        answers.append(RecommendResponse.model_validate_json(answer.content))
    assert len(asked) == 1, "the second one went by the route"
    one, other = (answer.model_dump(exclude={"recommendation_id"}) for answer in answers)
    assert one == other and len(one["items"]) == 4


def test_a_key_with_a_rate_pays_once_whichever_way_it_goes(settings: Settings, redis: syncredis.Redis) -> None:
    guarded = settings.model_copy(update={"auth": "on"})
    token = add_key(redis, Keys(settings.key_prefix), "serve", rate=0.001, burst=4)
    with serving_http(guarded) as client:
        bodies: list[dict[str, Any]] = [{"user_id": "ann"}, {"user_id": "ann", "context": {}}, {"user": 1}, {"k": 0}]
        answers = [client.post("/recommend", json=body, headers=bearer(token)) for body in [*bodies, bodies[0]]]
        assert [answer.status_code for answer in answers] == [200, 200, 422, 422, 429]
        assert client.post("/recommend", json=bodies[0]).status_code == 401
        assert client.post("/recommend", json=bodies[0], headers={"X-API-Key": token}).status_code == 429


def test_what_is_refused_counts_for_the_route(settings: Settings) -> None:
    """No key, and a client that goes away in the middle of its body: neither is an error of ours."""
    with serving_http(settings.model_copy(update={"auth": "on"})) as closed:
        assert closed.post("/recommend", json=USUAL).status_code == 401
        refused = [line for line in metrics_of(settings, closed).splitlines() if 'status_code="401"' in line]
        assert any('http_route="/recommend"' in line for line in refused)
    with serving_http(settings) as client:
        url = client.base_url
        with socket.create_connection((url.host, url.port)) as connection:
            kind = b"Content-Type: application/json\r\nContent-Length: 99"
            head = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\n" + kind + b"\r\n\r\n{"
            connection.sendall(head + b"Content-Length: 99\r\n\r\n{")
        until(lambda: 'status_code="400"' in client.get("/metrics").text, "the metric")
        counted = [line for line in client.get("/metrics").text.splitlines() if 'status_code="400"' in line]
        assert all('http_route="/recommend"' in line for line in counted)
        assert 'status_code="500"' not in client.get("/metrics").text


def metrics_of(settings: Settings, client: httpx.Client) -> str:
    """With a key for them."""
    with syncredis.from_url(settings.redis_url) as redis:
        token = add_key(redis, Keys(settings.key_prefix), "metrics")
    until(lambda: client.get("/metrics", headers=bearer(token)).status_code == 200, "the new key")
    return client.get("/metrics", headers=bearer(token)).text


def test_a_session_that_is_none_is_an_empty_one(settings: Settings, redis: syncredis.Redis) -> None:
    keys = Keys(settings.key_prefix)
    with serving_http(settings) as client:
        redis.set(keys.session("u:ann"), "no session")
        redis.hset(keys.session("u:bob"), "no", "string")
        assert recommend(client, "ann")["warnings"] == []
        assert len(client.get("/users/ann").json()["seen_item_ids"]) == 10, "and from then on it is one"
        assert recommend(client, "bob")["warnings"] == []
        assert len(recommend(client, "eve", k=N_ITEMS)["items"]) == N_ITEMS


async def test_requests_that_come_together_keep_apart(settings: Settings) -> None:
    """Fifty at once, each with a candidate of its own: nobody gets another one's slate."""
    with serving_http(settings) as client:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=30) as together:
            bodies = [{"user_id": f"u{n}", "candidate_item_ids": [f"film-{n % N_ITEMS}"]} for n in range(50)]
            answers = await asyncio.gather(*(together.post("/recommend", json=body) for body in bodies))
        for n, answer in enumerate(answers):
            assert [item["item_id"] for item in answer.json()["items"]] == [f"film-{n % N_ITEMS}"]
        shown = {f"u{n}": f"film-{n % N_ITEMS}" for n in range(50)}
        for user, item in shown.items():
            assert client.get(f"/users/{user}").json()["seen_item_ids"] == [item]
        event = {"event_id": "e", "user_id": "u3", "item_id": "film-3", "type": "click"}
        respond(client, event)


def test_slates_of_one_batch_are_drawn_as_often_as_their_propensities_say(settings: Settings) -> None:
    """Wishes of several lengths and states in one batch; slot 0 against the policy, by Pearson's test."""
    assert settings.snapshot is not None
    snapshot = load_snapshot(settings.snapshot)
    embeddings: Embeddings = load_catalogue(settings.snapshot).embeddings
    policy = snapshot.serving_policy(embeddings)
    rng, free = np.random.default_rng(5), np.ones(N_ITEMS, np.bool_)
    some = free.copy()
    some[4:] = False
    kinds = [(free, 3), (some, 7), (free, 1)]
    counts = np.zeros((len(kinds), N_ITEMS))
    for _ in range(2_000):
        drawn = slates.draw_all([slates.Draw(policy, Query((), mask), k, rng) for mask, k in kinds])
        for kind, ((mask, k), slate) in enumerate(zip(kinds, drawn, strict=True)):
            assert len(slate.items) == min(k, mask.sum()) == len(set(slate.items))
            assert len(slate.propensities) == len(slate.scores) == len(slate.from_learned) == len(slate.items)
            assert slate.propensities[0] == pytest.approx(slate.scores[0])
            counts[kind, slate.items[0]] += 1
    for kind, (mask, _) in enumerate(kinds):
        expected = policy.distribution((), mask).probs
        assert chisquare(counts[kind][mask], 2_000 * expected[mask]).pvalue > 1e-4
