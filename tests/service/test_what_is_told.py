"""What users say, over HTTP: late and early, strong and weak, taken back, before and after a login."""

from __future__ import annotations

import time
from typing import Any

import httpx
import numpy as np
import pytest
import redis as syncredis

from service.settings import Settings
from service.store.events import VisitorJoined
from service.worker.worker import Worker
from tests.service.service_examples import (
    learning_settings,
    logged,
    problem_of,
    recommend,
    respond,
    serving,
    shown,
    until,
    working,
)


def said(event_id: str, item: int | str, kind: str = "like", user: str = "ann", **fields: Any) -> dict[str, Any]:
    item_id = f"film-{item}" if isinstance(item, int) else item
    return {"event_id": event_id, "user_id": user, "item_id": item_id, "type": kind, **fields}


def history(client: httpx.Client, user: str = "ann") -> list[tuple[str, float]]:
    return [(past["item_id"], past["reward"]) for past in client.get(f"/users/{user}").json()["history"]]


def comedies(client: httpx.Client, user: str) -> float:
    """Probability of films that are Comedies, as 1, 4 and 7 are."""
    asked = {"user_id": user, "k": 5, "exclude_item_ids": ["film-1", "film-4"]}
    told = client.post("/preview", json=asked).json()
    share: float = sum(one["share"] for one in told["categories"] if one["category"] == "Comedy")
    return share


def test_late_events_find_their_place_in_time_one_request_each(api: httpx.Client) -> None:
    """trials H: nineteen likes that were sent newest first."""
    now = time.time()
    for n in range(19):
        respond(api, said(f"e{n}", n, occurred_at=now - 60 * n))
    assert [item for item, _ in history(api)] == [f"film-{n}" for n in reversed(range(19))]
    respond(api, said("late", 25, occurred_at=1000 * (now - 90)))
    items = [item for item, _ in history(api)]
    assert items.index("film-2") < items.index("film-25") < items.index("film-1")


def test_a_late_no_does_not_take_back_a_later_yes(api: httpx.Client) -> None:
    now = time.time()
    respond(api, said("yes", 1, occurred_at=now - 60))
    respond(api, said("no", 1, "dislike", occurred_at=now - 120))
    assert history(api) == [("film-1", 1.0)]
    respond(api, said("no-again", 1, "dislike", occurred_at=now - 30))
    assert history(api) == [("film-1", -1.0)]


@pytest.mark.parametrize(
    ("kinds", "comes_to"),
    [
        (["purchase", "view"], 1.0),
        (["dislike", "view"], -1.0),
        (["like", "dislike"], -1.0),
        (["dislike", "like"], 1.0),
        (["view", "purchase", "skip"], 1.0),
    ],
)
def test_what_an_item_comes_to(api: httpx.Client, kinds: list[str], comes_to: float) -> None:
    for n, kind in enumerate(kinds):
        respond(api, said(f"e{n}", 1, kind))
    assert history(api) == [("film-1", comes_to)]


def test_types_may_be_explicit(settings: Settings) -> None:
    """A rating replaces the one before, whichever is better; what is only watched does not."""
    rewards = {"stars-5": 5.0, "stars-3": 3.0, "watched": 2.0}
    chosen = settings.model_copy(update={"rewards": rewards, "explicit_types": ["stars-5", "stars-3"]})
    with serving(chosen) as client:
        for n, kind in enumerate(["stars-5", "stars-3", "watched"]):
            respond(client, said(f"e{n}", 1, kind))
        assert history(client) == [("film-1", 3.0)]


@pytest.mark.parametrize("name", ["explicit_types", "ending_types"])
def test_a_type_that_has_no_reward_is_named_at_the_start(name: str) -> None:
    with pytest.raises(ValueError, match=f"IALP_{name.upper()}: nod has no reward"):
        Settings.model_validate({name: ["like", "nod"]})


def test_likes_count_as_their_rewards_say(settings: Settings) -> None:
    """A view moves what is shown by less than a like does, on any scale of rewards."""
    for scale in (1.0, 1000.0):
        rewards = {"view": 0.1 * scale, "like": scale}
        chosen = settings.model_copy(update={"rewards": rewards, "key_prefix": f"ialp{scale:g}"})
        chosen = chosen.model_copy(update={"data_dir": settings.data_dir / f"{scale:g}"})
        with serving(chosen) as client:
            for n in (1, 4):
                respond(client, said(f"a{n}", n, "view", user="viewer"), said(f"b{n}", n, "like", user="fan"))
            stranger, viewer, fan = (comedies(client, user) for user in ("nobody", "viewer", "fan"))
        assert stranger < viewer < fan
        assert viewer - stranger < (fan - stranger) / 2


def test_a_history_without_rewards_is_of_full_likes(settings: Settings) -> None:
    with serving(settings.model_copy(update={"rewards": {"like": 1000.0}})) as client:
        asked = {"k": 5, "session_id": "tab", "history": [{"item_id": "film-1"}, {"item_id": "film-4", "reward": 10.0}]}
        told = client.post("/preview", json=asked).json()
    assert [past["reward"] for past in told["history"]] == [1000.0, 10.0]


def test_what_is_taken_back_leaves_history_slate_and_popularity(settings: Settings, redis: syncredis.Redis) -> None:
    chosen = learning_settings(settings, reward_window_s=3.0)
    with working(chosen) as worker, serving(chosen) as client:
        slate = recommend(client, "ann", k=3)
        one, two, _ = shown(slate)
        about = {"user_id": "ann", "recommendation_id": slate["recommendation_id"]}
        respond(client, {"event_id": "a", "item_id": one, "type": "like", **about})
        respond(client, {"event_id": "b", "item_id": two, "type": "like", **about})
        undo = {"event_id": "c", "item_id": one, "undo": True, **about}
        assert respond(client, undo)["outcomes"] == {"teaches": 1}
        assert respond(client, undo)["duplicates"] == 1
        assert history(client) == [(two, 1.0)]
        assert one in client.get("/users/ann").json()["seen_item_ids"], "it was seen all the same"
        assert redis.zrange(f"{chosen.key_prefix}:popularity", 0, -1, withscores=True)[-1][1] == 1
        assert learned_of_the_first_slate(worker, client) == 1.0
        respond(client, {"event_id": "late", "item_id": two, "undo": True, **about})
        until(lambda: learned_of_the_first_slate(worker, client) == 0.0, "what was learned to be taken back")
        problem = problem_of(client.post("/feedback", json=undo | {"event_id": "x", "undo": False}), 422)
        assert problem["errors"][0]["field"] == "undo"


def learned_of_the_first_slate(worker: Worker, client: httpx.Client) -> float:
    """Rewards of the first slate that closed: it does as the log goes on."""

    def closed() -> bool:
        recommend(client, "somebody-else", k=1)
        return worker.learning is not None and worker.learning.counters.closed > 0

    until(closed, "the slate to close")
    assert worker.learning is not None
    return float(worker.learning.replay.rows(np.arange(1)).rewards.sum())


def test_a_visitor_who_logs_in_is_the_user(settings: Settings, redis: syncredis.Redis) -> None:
    """trials I: a slate that was shown to a session and bought from after the login was accepted and never learned."""
    chosen = learning_settings(settings, reward_window_s=3.0)
    with working(chosen) as worker, serving(chosen) as client:
        respond(client, said("old", 1, user="ann"))
        respond(client, {"event_id": "v", "session_id": "tab", "item_id": "film-4", "type": "like"})
        before = recommend(client, session_id="tab", k=3)
        bought = {"event_id": "b", "recommendation_id": before["recommendation_id"], "type": "purchase"}
        answer = respond(client, {"user_id": "ann", "item_id": shown(before)[0], **bought})
        assert answer["outcomes"] == {"teaches": 1}
        slate = {"recommendation_id": before["recommendation_id"]}
        other = {"event_id": "o", "session_id": "other", "item_id": shown(before)[0], "type": "like", **slate}
        assert respond(client, other)["outcomes"] == {"foreign": 1}
        after = recommend(client, "ann", session_id="tab", k=3)
        assert not set(shown(after)) & {"film-1", "film-4", *shown(before)}, "what the visitor saw is not shown again"
        assert [item for item, _ in history(client)] == ["film-1", "film-4", shown(before)[0]]
        recommend(client, "ann", session_id="tab", k=3)
        joins = [event for event in logged(redis, chosen) if isinstance(event, VisitorJoined)]
        assert joins == [VisitorJoined("s:tab", "u:ann")], "once"
        assert learned_of_the_first_slate(worker, client) == 1.0
        erased = client.delete("/users/ann").json()
        assert erased["impressions"] == 3 and erased["feedback"] == 3, "the visitor's, too"
    assert not redis.exists(f"{chosen.key_prefix}:u:s:tab") and not redis.exists(f"{chosen.key_prefix}:u:u:ann")


def test_feedback_with_both_names_joins_them_too(api: httpx.Client) -> None:
    respond(api, {"event_id": "v", "session_id": "tab", "item_id": "film-4", "type": "like"})
    respond(api, said("a", 5, session_id="tab"), said("b", 6, session_id="tab"), said("c", 7))
    assert [item for item, _ in history(api)] == ["film-4", "film-5", "film-6", "film-7"]


def test_who_erases_a_user_erases_the_visitor_that_they_were(settings: Settings, redis: syncredis.Redis) -> None:
    """Also what the visitor did after the login, under the old name."""
    with serving(settings) as client:
        respond(client, {"event_id": "v", "session_id": "tab", "item_id": "film-4", "type": "like"})
        respond(client, said("a", 5, session_id="tab"))
        respond(client, {"event_id": "w", "session_id": "tab", "item_id": "film-6", "type": "like"})
        client.delete("/users/ann").raise_for_status()
        assert not redis.keys(f"{settings.key_prefix}:u:*") and not redis.keys(f"{settings.key_prefix}:visitors:*")
        left = logged(redis, settings)
        assert sorted(type(event).__name__ for event in left) == ["UserErased", "UserErased"]


def test_a_response_is_dated_by_the_servers_clock(
    settings: Settings, redis: syncredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two API processes whose clocks differ the later word counts."""
    now = time.time()
    with serving(settings) as ahead:
        monkeypatch.setattr(time, "time", lambda: now + 3600)
        respond(ahead, said("yes", 1))
        monkeypatch.undo()
        respond(ahead, said("no", 1, "dislike"))
        assert history(ahead) == [("film-1", -1.0)]
