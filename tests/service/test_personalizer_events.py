"""What becomes of a ranked event: its reward, its activation, and that each counts once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as syncredis

from service.policy.types import Interaction
from service.settings import Settings
from service.store.events import Feedback, Impression
from service.store.joiner import Joined, Joiner
from service.store.keys import Keys
from service.store.lag import Lag
from service.worker.transitions import transition_of
from tests.service.personalizer_examples import (
    FILMS,
    activate,
    impressions,
    lasting_settings,
    probabilities,
    rank,
    reward,
    rewards,
)
from tests.service.service_examples import N_ITEMS, logged, make_settings, problem_of, respond, serving_http


@pytest.fixture
def settings(redis_url: str, snapshot_folder: Path, tmp_path: Path) -> Settings:
    return lasting_settings(redis_url, snapshot_folder, tmp_path)


@pytest.fixture(scope="module")
def lasting(redis_url: str, snapshot_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One API for what is refused and leaves no trace."""
    with serving_http(
        make_settings(redis_url, snapshot_folder, tmp_path_factory.mktemp("lasting") / "personalizer")
    ) as api:
        yield api


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7, "1", True, None])
def test_a_reward_is_a_bounded_number(lasting: httpx.Client, value: object) -> None:
    path, headers = "/personalizer/v1.0/events/e/reward", {"content-type": "application/json"}
    answer = lasting.post(path, content=json.dumps({"value": value}), headers=headers)
    assert [error["field"] for error in problem_of(answer, 422)["errors"]] == ["value"]
    problem_of(lasting.post(path, json={"value": 1.0, "type": "click"}), 422)
    problem_of(lasting.post(path), 422)


def test_what_was_ranked_and_its_reward_are_one_transition(
    api: httpx.Client, redis: syncredis.Redis, settings: Settings
) -> None:
    index = {f"film-{n}": n for n in range(N_ITEMS)}
    context = [{"userId": "ann"}]
    first = rank(api, *FILMS, contextFeatures=context)
    assert reward(api, first["eventId"], 0.7) == 204
    second = rank(api, first["rewardActionId"], contextFeatures=context)
    joiner = Joiner(1.0)
    for n, event in enumerate(logged(redis, settings)):
        if isinstance(event, Impression):
            assert joiner.add_impression(event, n)
        else:
            assert isinstance(event, Feedback) and joiner.add_feedback(event, 1_000) == Joined.JOINED
            assert (event.user, event.event_id) == ("u:ann", f"personalizer:{first['eventId']}")
    one, two = (transition_of(closed, index, gamma=0.5, largest=1.0) for closed in joiner.close(100_000))
    item = index[first["rewardActionId"]]
    assert (one.actions, one.rewards) == ((item,), (0.7,))
    assert one.propensities == pytest.approx((probabilities(first)[first["rewardActionId"]],), rel=1e-12)
    assert one.discount == 0.5 and one.next_history == (Interaction(item, 0.7),) == two.history
    assert (two.actions, two.rewards, two.propensities) == ((item,), (0.0,), (1.0,))
    assert second["rewardActionId"] == first["rewardActionId"]


def test_an_event_that_comes_again_has_the_same_answer_and_counts_once(
    http_api: httpx.Client, redis: syncredis.Redis, settings: Settings
) -> None:
    def ask(_: int) -> str:
        with httpx.Client(base_url=http_api.base_url, timeout=30) as client:
            chosen: str = rank(client, *FILMS, eventId="again")["rewardActionId"]
            return chosen

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(24)))
    assert len(answers) == 1
    (item,) = answers
    (impression,) = impressions(redis, settings)
    assert impression.items == (item,)
    assert [ask(0) for _ in range(3)] == [item] * 3
    assert 'ialp_impressions_total{arm="' + impression.arm + '"} 1.0' in http_api.get("/metrics").text
    # Once that action is not allowed any more, the event is another one.
    others = [film for film in FILMS if film != item]
    changed = rank(http_api, *FILMS, eventId="again", excludedActions=[item])
    assert changed["rewardActionId"] in others
    assert [shown.items[0] for shown in impressions(redis, settings)] == [item, changed["rewardActionId"]]
    assert reward(http_api, "again") == 204
    (answered,) = rewards(redis, settings)
    assert answered.item_id == changed["rewardActionId"]


def test_an_events_first_reward_counts(
    api: httpx.Client, redis: syncredis.Redis, settings: Settings, keys: Keys
) -> None:
    event = rank(api, *FILMS, contextFeatures=[{"userId": "ann"}])
    # What a client calls its own events is no business of this one's.
    for taken in (event["eventId"], f"personalizer:{event['eventId']}"):
        respond(api, {"event_id": taken, "user_id": "bob", "item_id": "film-1", "type": "click"})
    (impression,) = impressions(redis, settings)
    for value in (0.25, 1.0, -1.0):
        assert reward(api, event["eventId"], value) == 204
    ours = [answered for answered in rewards(redis, settings) if answered.user == "u:ann"]
    assert [(answered.reward, answered.recommendation_id) for answered in ours] == [
        (0.25, impression.recommendation_id)
    ]
    assert api.get("/users/ann").json()["history"] == [{"item_id": event["rewardActionId"], "reward": 0.25}]
    assert redis.ttl(keys.rewarded(impression.recommendation_id)) >= redis.ttl(keys.ranked(event["eventId"])) > 80


def test_what_is_deferred_counts_once_it_is_activated(
    api: httpx.Client, redis: syncredis.Redis, settings: Settings, keys: Keys
) -> None:
    event = rank(api, *FILMS, contextFeatures=[{"userId": "ann"}], eventId="later", deferActivation=True)
    assert redis.xlen(keys.events) == 0 and api.get("/users/ann").status_code == 404
    assert "ialp_impressions_total{" not in api.get("/metrics").text
    assert 180 < redis.ttl(keys.ranked("later")) <= 182, "twice the reward window"
    again = rank(api, *FILMS, contextFeatures=[{"userId": "ann"}], eventId="later")
    assert again["rewardActionId"] == event["rewardActionId"] and redis.xlen(keys.events) == 0
    assert reward(api, "later", 0.5) == 204, "ignored: nobody saw it so far"
    assert redis.xlen(keys.events) == 0
    redis.expire(keys.ranked("later"), 20)
    assert [activate(api, "later") for _ in range(3)] == [204] * 3
    (impression,) = impressions(redis, settings)
    assert impression.items == (event["rewardActionId"],) and impression.user == "u:ann"
    assert impression.propensities == pytest.approx((probabilities(event)[event["rewardActionId"]],), rel=1e-12)
    assert api.get("/users/ann").json()["seen_item_ids"] == [event["rewardActionId"]]
    assert "ialp_impressions_total{" in api.get("/metrics").text
    assert 90 <= redis.ttl(keys.ranked("later")) <= 91, "a whole reward window from now on"
    assert reward(api, "later", 0.75) == 204
    assert [answered.reward for answered in rewards(redis, settings)] == [0.75]


def test_activating_what_was_not_deferred_changes_nothing(
    api: httpx.Client, redis: syncredis.Redis, keys: Keys
) -> None:
    event = rank(api, *FILMS)["eventId"]
    before = redis.xrange(keys.events), redis.get(keys.ranked(event))
    assert activate(api, event) == 204
    assert (redis.xrange(keys.events), redis.get(keys.ranked(event))) == before


def test_of_activations_at_once_one_counts(http_api: httpx.Client, redis: syncredis.Redis, settings: Settings) -> None:
    """On two servers, so that nothing in one process keeps them apart."""
    rank(http_api, *FILMS, eventId="race", deferActivation=True)

    def post(client: httpx.Client) -> int:
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            return activate(own, "race")

    with serving_http(settings) as other, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(post, [http_api, other] * 12)) == {204}
        counted = [line for client in (http_api, other) for line in client.get("/metrics").text.splitlines()]
    assert len(impressions(redis, settings)) == 1
    shown = [line for line in counted if line.startswith("ialp_impressions_total{")]
    assert sum(float(line.split()[1]) for line in shown) == 1.0


def test_what_is_forgotten_or_unreadable_is_unknown(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    event = rank(api, *FILMS)["eventId"]
    assert 90 <= redis.ttl(keys.ranked(event)) <= 91, "the reward window, and no less"
    for damaged in (b"\xc1", None):
        if damaged is None:
            redis.delete(keys.ranked(event))
        else:
            redis.set(keys.ranked(event), damaged)
        for path, body in (("reward", {"value": 1.0}), ("activate", None)):
            problem = problem_of(api.post(f"/personalizer/v1.0/events/{event}/{path}", json=body), 404)
            assert problem["code"] == "unknown_event" and "90.5 s" in problem["detail"]
    redis.set(keys.ranked(event), b"\xc1")
    assert rank(api, *FILMS, eventId=event)["eventId"] == event
    assert reward(api, event) == 204


def test_while_the_learner_is_far_behind_events_are_answered_and_not_remembered(
    api: httpx.Client, redis: syncredis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rank(api, *FILMS)
    before, deferred = first["eventId"], rank(api, *FILMS, deferActivation=True)["eventId"]
    with monkeypatch.context() as behind:
        behind.setattr(Lag, "too_far", True)
        event = rank(api, *FILMS)["eventId"]
        again = [rank(api, *FILMS, eventId=before)["rewardActionId"] for _ in range(8)]
        assert set(again) == {first["rewardActionId"]}, "what is remembered still counts"
        rank(api, *FILMS, eventId=before, excludedActions=[first["rewardActionId"]])
        for path, body in ((f"{before}/reward", {"value": 1.0}), (f"{deferred}/activate", None)):
            refused = api.post(f"/personalizer/v1.0/events/{path}", json=body)
            assert problem_of(refused, 503)["code"] == "learner_behind"
        assert redis.xlen(keys.events) == 1
    assert (reward(api, before), reward(api, event), activate(api, deferred)) == (204, 404, 204)


def test_an_erased_user_does_not_come_back_by_their_events(
    api: httpx.Client, redis: syncredis.Redis, settings: Settings, keys: Keys
) -> None:
    ann: dict[str, Any] = {"contextFeatures": [{"userId": "ann"}]}
    bobs = rank(api, *FILMS, contextFeatures=[{"userId": "bob"}])["eventId"]
    shown, later = rank(api, *FILMS, **ann)["eventId"], rank(api, *FILMS, deferActivation=True, **ann)["eventId"]
    assert 180 < redis.ttl(keys.ranked_of("u:ann")) <= 364
    assert api.delete("/users/ann").status_code == 200
    assert (reward(api, shown), activate(api, later), reward(api, bobs)) == (404, 404, 204)
    names = [name.decode() for name in redis.scan_iter(f"{settings.key_prefix}*")]
    assert not [name for name in names if "ann" in name]
    left: list[Impression | Feedback] = [*impressions(redis, settings), *rewards(redis, settings)]
    assert {event.user for event in left} == {"u:bob"}
    assert reward(api, rank(api, *FILMS, **ann)["eventId"]) == 204, "ann may come again"


def test_events_that_are_over_leave_their_users_list(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    ann: dict[str, Any] = {"contextFeatures": [{"userId": "ann"}]}
    redis.zadd(keys.ranked_of("u:ann"), {"long ago": 1.0})
    event = rank(api, *FILMS, **ann)["eventId"]
    assert redis.zrange(keys.ranked_of("u:ann"), 0, -1) == [event.encode()]


def test_an_event_of_nobodys_leaves_no_session(
    api: httpx.Client, redis: syncredis.Redis, settings: Settings, keys: Keys
) -> None:
    event = rank(api, *FILMS)["eventId"]
    assert reward(api, event) == 204
    assert len(impressions(redis, settings)) == len(rewards(redis, settings)) == 1
    assert not list(redis.scan_iter(f"{keys.session('')}*")) and not redis.exists(keys.ranked_of(f"s:{event}"))
