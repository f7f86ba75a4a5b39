"""GET and DELETE /users/{user_id}."""

from __future__ import annotations

import httpx
import redis as syncredis
from service_examples import (
    learning_settings,
    problem_of,
    recommend,
    report_of,
    respond,
    serving,
    shown,
    until,
    working,
)

from service.keys import Keys
from service.settings import Settings


def test_what_is_stored_can_be_read_and_erased(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    assert problem_of(api.get("/users/ann"), 404)["code"] == "unknown_user"
    slate = recommend(api, "ann", k=4)
    respond(api, {"event_id": "e", "user_id": "ann", "item_id": "film-9", "type": "like"})
    stored = api.get("/users/ann").json()
    assert stored["seen_item_ids"] == sorted({*shown(slate), "film-9"})
    assert (stored["history"], stored["arm"]) == ([{"item_id": "film-9", "reward": 1.0}], slate["arm"])
    assert api.delete("/users/ann").status_code == 204
    problem_of(api.get("/users/ann"), 404)
    assert not redis.exists(keys.history("u:ann"), keys.seen("u:ann"))
    assert len(shown(recommend(api, "ann", k=30))) == 30, "starts afresh"
    assert api.delete("/users/nobody").status_code == 204


def test_open_impressions_of_an_erased_user_are_not_learned_from(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings, reward_window_s=3600.0)
    with serving(settings) as client, working(settings):
        recommend(client, "ann")
        recommend(client, "ann")
        recommend(client, "bob")
        until(lambda: report_of(redis, settings).open == 3, "three open impressions")
        client.delete("/users/ann")
        until(lambda: report_of(redis, settings).open == 1, "bob's impression")
    report = report_of(redis, settings)
    assert (report.events, report.closed) == ({"impression": 3, "usererased": 1}, 0)
