"""GET and DELETE /users/{user_id}."""

from __future__ import annotations

import httpx
import redis as syncredis
import torch

from service.policy.types import EMPTY_SLOT
from service.settings import Settings
from service.store import events
from service.store.checkpoint import CheckpointStore
from service.store.events import UserErased
from service.store.keys import Keys
from service.worker.counters import Meta
from service.worker.transitions import owner_of
from tests.service.service_examples import (
    learning_settings,
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


def test_what_is_stored_can_be_read_and_erased(api: httpx.Client, redis: syncredis.Redis, keys: Keys) -> None:
    assert problem_of(api.get("/users/ann"), 404)["code"] == "unknown_user"
    slate = recommend(api, "ann", k=4)
    respond(api, {"event_id": "e", "user_id": "ann", "item_id": "film-9", "type": "like"})
    respond(api, {"event_id": "f", "user_id": "ann", "item_id": "film-9", "type": "view"})
    stored = api.get("/users/ann").json()
    assert stored["seen_item_ids"] == sorted({*shown(slate), "film-9"}), "each once"
    assert (stored["history"], stored["arm"]) == ([{"item_id": "film-9", "reward": 1.0}], slate["arm"])
    erased = api.delete("/users/ann")
    assert erased.status_code == 200
    assert erased.json() | {"remains": []} == {
        "session": True,
        "impressions": 1,
        "feedback": 2,
        "dead_letters": 0,
        "remains": [],
    }
    assert "weights" in erased.json()["remains"][0]
    problem_of(api.get("/users/ann"), 404)
    assert not redis.exists(keys.session("u:ann"))
    assert len(shown(recommend(api, "ann", k=30))) == 30, "starts afresh"
    assert api.delete("/users/nobody").json()["session"] is False


def test_nothing_that_can_be_read_names_an_erased_user(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    """Not the log, not what was set aside, no key, and not the worker's checkpoint but for the erasure itself."""
    settings = learning_settings(settings, reward_window_s=0.5)
    with serving(settings) as client:
        with working(settings):
            for n in range(3):
                slate = recommend(client, "mallory-doe")
                event = {"event_id": f"e{n}", "user_id": "mallory-doe", "item_id": shown(slate)[0], "type": "click"}
                respond(client, event | {"recommendation_id": slate["recommendation_id"]})
            talk(client, 20)
            redis.xadd(keys.events, {events.FIELD: b"no event of u:mallory-doe"})
            until(lambda: sum(report_of(redis, settings).events.values()) == redis.xlen(keys.events), "the log's end")
            others = redis.xlen(keys.events) - 7
            erased = client.delete("/users/mallory-doe").json()
            assert (erased["impressions"], erased["feedback"], erased["dead_letters"]) == (3, 4, 1)
            assert redis.xlen(keys.events) == others + 1
            until(lambda: report_of(redis, settings).events.get("usererased") == 1, "the erasure in the worker")
            folder = settings.data_dir / "worker"

            def known() -> bool:
                return any(b"mallory" in path.read_bytes() for path in folder.glob("checkpoint-*"))

            until(lambda: len(list(folder.glob("checkpoint-*"))) == 2 and not known(), "checkpoints without them")
        assert all(b"mallory" not in key for key in redis.scan_iter(f"{settings.key_prefix}*"))
        stored = [fields for key in (keys.events, keys.dead) for _, fields in redis.xrange(key)]
        named = [fields for fields in stored if b"mallory" in b"".join(fields.values())]
        assert [type(events.decode(fields[events.FIELD])) for fields in named] == [UserErased]
    # What the learner had of them is gone from its replay, and the rest is still there.
    meta, tensors = saved_of(settings)
    owners, actions = tensors["replay.whose.owner"], tensors["replay.slots.actions"]
    assert (owners == owner_of("u:mallory-doe")).sum() == 0
    assert ((owners == 0) == (actions == EMPTY_SLOT).all(1)).all()
    assert meta.counters.events["usererased"] == 1


def saved_of(settings: Settings) -> tuple[Meta, dict[str, torch.Tensor]]:
    saved = CheckpointStore(settings.data_dir / "worker", Meta, token=2**31).load()
    assert saved is not None
    return saved


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
