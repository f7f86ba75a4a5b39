"""A learner that falls behind: feedback is refused cleanly, slates go on, and what was acknowledged is learned."""

from __future__ import annotations

import pytest
import redis as syncredis

from service.settings import Settings
from service.store import events
from service.store.events import Feedback, Impression
from service.store.keys import Keys
from tests.service.service_examples import (
    learning_settings,
    logged,
    problem_of,
    recommend,
    report_of,
    respond,
    serving,
    shown,
    talk,
    until,
    working,
)

pytestmark = pytest.mark.exclusive

EVENT = {"event_id": "refused", "user_id": "ann", "item_id": "film-1", "type": "click"}


def test_feedback_is_refused_until_the_learner_has_caught_up(
    settings: Settings, redis: syncredis.Redis, keys: Keys
) -> None:
    settings = learning_settings(settings, max_lag_s=60.0)
    with serving(settings) as client:
        talk(client, 20)
        respond(client, EVENT | {"event_id": "before"})
        first = int(redis.xinfo_stream(keys.events)["first-entry"][0].split(b"-")[0])
        late = Feedback("late", "u:bob", "film-2", 1.0)
        redis.xadd(keys.events, {events.FIELD: events.encode(late)}, id=f"{first + 61_000}-0")
        until(lambda: client.post("/feedback", json=EVENT).status_code == 503, "the refusal")
        refused = client.post("/feedback", json=[EVENT])
        assert problem_of(refused, 503)["code"] == "learner_behind"
        assert int(refused.headers["retry-after"]) >= 1
        told = client.get("/metrics").text
        assert float(told.split("\nialp_feedback_lag_seconds ")[1].split()[0]) > 60, "though no worker says so"
        length = redis.xlen(keys.events)
        slate = recommend(client, "ann", k=5)
        assert len(shown(slate)) == 5 and "impression_not_logged" in slate["warnings"]
        assert redis.xlen(keys.events) == length, "nothing more is put on the pile"

        with working(settings):
            until(lambda: client.post("/feedback", json=EVENT).status_code == 202, "feedback again")
            assert respond(client, EVENT)["duplicates"] == 1, "the refused one counts once"
            assert recommend(client, "carl")["warnings"] == []
            until(lambda: sum(report_of(redis, settings).events.values()) == redis.xlen(keys.events), "the end")
        counts = report_of(redis, settings).events
        log = logged(redis, settings)
        assert counts["impression"] == sum(isinstance(event, Impression) for event in log)
        feedback = sum(count for kind, count in counts.items() if kind.startswith("feedback_"))
        assert feedback == sum(isinstance(event, Feedback) for event in log) and "poison" not in counts


def test_without_a_limit_nothing_is_refused(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    with serving(settings.model_copy(update={"max_lag_s": None})) as client:
        respond(client, EVENT)
        redis.xadd(keys.events, {events.FIELD: b""}, id="99999999999999-0")
        for n in range(30):
            respond(client, EVENT | {"event_id": f"e{n}"})
        assert recommend(client, "ann")["warnings"] == []
