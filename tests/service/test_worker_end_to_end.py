"""API and worker together: they meet in Redis, the worker publishes and the API serves what it published."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
import redis as syncredis
import torch

from service.policy.snapshot_files import load_snapshot
from service.settings import Settings
from service.store import event_log, events
from service.store.checkpoint import CheckpointStore
from service.store.events import Feedback, Impression, ItemChanged
from service.store.keys import Keys
from service.store.lease import Lease
from service.store.registry import folder_of
from service.worker.counters import Meta
from service.worker.worker import Worker
from tests.service.service_examples import (
    learning_settings,
    logged,
    make_snapshot,
    recommend,
    report_of,
    respond,
    serving,
    shown,
    talk,
    until,
    working,
)


def version_of(client: httpx.Client) -> int:
    version: int = client.get("/readyz").json()["policy_version"]
    return version


@pytest.mark.parametrize("variant", ["ft", "ap"])
def test_versions_are_learned_published_and_served(settings: Settings, redis: syncredis.Redis, variant: str) -> None:
    settings = learning_settings(settings, variant=variant)
    with serving(settings) as client, working(settings):
        talk(client, 60)
        until(lambda: version_of(client) >= 2, "version 2 in service", lambda: talk(client, 1))
        listed = client.get("/policies").json()
        assert listed["live_version"] == version_of(client)
        newest = listed["policies"][0]
        assert (newest["variant"], newest["gate_passed"], newest["learner"]["name"]) == (variant, True, "boltzmann")
        assert newest["lineage"]["closed"] >= 40
        arms = client.get("/evaluation").json()["arms"]
        assert arms["adaptive"]["reward_low"] <= arms["adaptive"]["reward_mean"] <= arms["adaptive"]["reward_high"]
        assert arms["control"]["impressions"] > 0
        assert recommend(client, "ann", k=5)["policy_version"] >= 2
    assert report_of(redis, settings).version >= 2


def refused(redis: syncredis.Redis, settings: Settings, reason: str) -> int:
    """How many versions the gate has refused for a reason."""
    return report_of(redis, settings).gate_rejections.get(reason, 0)


def share_of_comedies(client: httpx.Client, user: str) -> float:
    """Of a slate of one, for a user."""
    told = client.post("/preview", json={"user_id": user, "k": 1}).json()["categories"]
    share: float = sum(one["share"] for one in told if one["category"] == "Comedy")
    return share


def test_a_shop_that_only_sends_likes_gets_versions_that_know_its_people(
    settings: Settings, redis: syncredis.Redis, tmp_path: Path
) -> None:
    """From a policy that thinks nothing of likeness; who likes a film goes on to like others of its kind."""
    indifferent = make_snapshot(tmp_path / "indifferent", gain=(0.0,) * 4)
    settings = learning_settings(
        settings, snapshot=indifferent, control_share=0.0, publish_every=120, gate_trial_share=1.0
    )
    with serving(settings) as client, working(settings):
        for user, genre in (("comic", 1), ("western", 2)):
            for n in range(2):
                respond(
                    client,
                    {"event_id": f"{user}{n}", "user_id": user, "item_id": f"film-{genre + 3 * n}", "type": "like"},
                )
        before = share_of_comedies(client, "comic") - share_of_comedies(client, "western")
        for n in range(80):
            liked = [f"film-{n % 3 + 3 * ((n // 3 + step) % 10)}" for step in (0, 3, 4)]
            respond(
                client, *({"event_id": f"{n}-{i}", "user_id": f"u{n}", "item_id": i, "type": "like"} for i in liked)
            )
        until(lambda: version_of(client) >= 3, "version 3 in service")
        newest = client.get("/policies").json()["policies"][0]
        assert newest["gate_passed"] and newest["lineage"]["closed"] == 0 and "ess" not in newest["gate_numbers"]
        assert client.get("/metrics").status_code == client.get("/evaluation").status_code == 200
        assert share_of_comedies(client, "comic") - share_of_comedies(client, "western") > before + 0.5
        until(lambda: report_of(redis, settings).events == {"feedback_organic": 244}, "the end of the log")


def test_the_frozen_variant_publishes_nothing(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings, variant="frozen")
    with serving(settings) as client, working(settings):
        talk(client, 50)
        until(lambda: report_of(redis, settings).closed >= 45, "closed impressions", lambda: talk(client, 1))
        assert [p["version"] for p in client.get("/policies").json()["policies"]] == [1]


def test_a_worker_that_resumes_counts_every_event_once(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client:
        for start in (0, 30, 60):
            with working(settings):
                talk(client, 30, start)
        with working(settings):
            n_events = redis.xlen(Keys(settings.key_prefix).events)
            until(lambda: sum(report_of(redis, settings).events.values()) == n_events, "the end of the log")
    report = report_of(redis, settings)
    kinds = [type(event) for event in logged(redis, settings)]
    assert report.events["impression"] == kinds.count(Impression)
    joined = sum(count for kind, count in report.events.items() if kind.startswith("feedback_"))
    assert joined == kinds.count(Feedback)
    assert report.closed + report.open == kinds.count(Impression)


@pytest.mark.parametrize("differs", ["settings", "layout", "release"])
def test_a_checkpoint_that_does_not_fit_gives_way_to_the_live_version(settings: Settings, differs: str) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client:
        with working(settings):
            talk(client, 60)
            until(lambda: version_of(client) >= 2, "version 2 in service", lambda: talk(client, 1))
        if differs == "settings":
            settings = settings.model_copy(update={"replay_capacity": settings.replay_capacity + 1})
        else:
            store = CheckpointStore(settings.data_dir / "worker", Meta, token=1)
            saved = store.load()
            assert saved is not None
            meta, tensors = saved
            if differs == "release":
                older = meta.fingerprint.replace("(3, 5,", "(3, 4,")
                assert older != meta.fingerprint
                meta.fingerprint = older
            if differs == "layout":
                tensors = {name: t for name, t in tensors.items() if not name.startswith("learner.actor.")}
            store.save(meta, tensors)
        live = client.get("/policies").json()["live_version"]
        with working(settings) as worker:
            until(lambda: worker.learning is not None, "the learner")
            assert worker.learning is not None
            assert worker.learning.snapshot.manifest.version == live
            closed = worker.learning.counters.closed

            def goes_on() -> bool:
                return worker.learning is not None and worker.learning.counters.closed > closed + 10

            until(goes_on, "learning that goes on", lambda: talk(client, 1))


def test_new_items_reach_the_learner_and_the_next_version(settings: Settings) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client, working(settings):
        talk(client, 20)
        for n in range(3):
            answer = client.put(f"/items/new-{n}", json={"text": f"A new western {n}", "categories": ["Western"]})
            assert answer.status_code == 201
        slate = recommend(client, "bob", k=3, candidate_item_ids=["new-0", "new-1", "new-2"])
        assert sorted(shown(slate)) == ["new-0", "new-1", "new-2"]
        respond(
            client,
            {
                "event_id": "e",
                "user_id": "bob",
                "item_id": "new-1",
                "type": "click",
                "recommendation_id": slate["recommendation_id"],
            },
        )
        talk(client, 40, start=20)
        until(lambda: version_of(client) >= 2, "a version that knows the new items", lambda: talk(client, 1))
        assert len(shown(recommend(client, "carl", k=33))) == 33


def test_poison_entries_are_set_aside_and_the_loop_goes_on(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings)
    keys = Keys(settings.key_prefix)
    with serving(settings) as client, working(settings):
        talk(client, 5)
        for data in (b"\xc1 not msgpack", b"", events.encode(ItemChanged("x", b""))[:-2]):
            redis.xadd(keys.events, {events.FIELD: data})
        redis.xadd(keys.events, {"other": "field"})
        talk(client, 5, start=5)
        n_events = redis.xlen(keys.events)
        until(lambda: sum(report_of(redis, settings).events.values()) == n_events, "the end of the log")
        assert report_of(redis, settings).events["poison"] == 4
        assert 'ialp_log_events_total{kind="poison"} 4.0' in client.get("/metrics").text
        reasons = [fields[b"reason"].decode() for _, fields in redis.xrange(keys.dead)]
        assert len(reasons) == 4 and all(reason.startswith("EventError: ") for reason in reasons)
    entry = redis.xrange(keys.dead)[0][0].decode()
    lease = Lease(redis, keys, 60.0)
    assert lease.acquire()
    event_log.set_aside(lease, keys, entry, b"", "again", limit=10)
    assert redis.xlen(keys.dead) == 4


def test_a_learner_that_diverged_is_refused_and_starts_again_from_live(
    settings: Settings, redis: syncredis.Redis
) -> None:
    settings = learning_settings(settings, learner_config={"taste_learning_rate": 1e-3})
    with serving(settings) as client, working(settings) as worker:
        until(lambda: worker.learning is not None, "the learner")
        assert worker.learning is not None
        with torch.no_grad():
            worker.learning.learner.actor.id_bias.fill_(float("nan"))
        talk(client, 50)
        until(lambda: refused(redis, settings, "not_finite") >= 1, "the refusal", lambda: talk(client, 1))
        assert client.get("/metrics").status_code == client.get("/evaluation").status_code == 200
        assert 'ialp_gate_rejections_total{reason="not_finite"} 1.0' in client.get("/metrics").text
        talk(client, 50, start=50)
        until(lambda: version_of(client) >= 2, "a sane version after that", lambda: talk(client, 1))
        published = [record["version"] for record in client.get("/policies").json()["policies"]]
    tensors = [load_snapshot(folder_of(settings.data_dir, version)).tensors for version in published]
    assert all(tensor.isfinite().all() for version in tensors for tensor in version.values())


def test_a_learning_step_that_fails_is_no_events_fault(
    settings: Settings, redis: syncredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client, working(settings) as worker:
        until(lambda: worker.learning is not None, "the learner")
        assert worker.learning is not None
        failing = worker.learning.learner

        def update(*_: object) -> None:
            torch.linalg.cholesky(-torch.eye(2))  # not positive definite

        monkeypatch.setattr(failing, "update", update)
        talk(client, 50)
        until(lambda: refused(redis, settings, "learning_failed") >= 1, "the refusal", lambda: talk(client, 1))
        assert worker.learning.learner is not failing and redis.xlen(Keys(settings.key_prefix).dead) == 0
        talk(client, 50, start=50)
        until(lambda: version_of(client) >= 2, "a sane version after that", lambda: talk(client, 1))
        assert "poison" not in report_of(redis, settings).events


def test_a_learner_that_is_refused_again_and_again_starts_again(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings, gate_margin=-100.0, gate_patience=2)
    with serving(settings) as client, working(settings) as worker:
        until(lambda: worker.learning is not None, "the learner")
        assert worker.learning is not None
        hopeless = worker.learning.learner
        until(lambda: refused(redis, settings, "off_policy") == 1, "one refusal", lambda: talk(client, 1))
        assert worker.learning.learner is hopeless
        until(lambda: refused(redis, settings, "off_policy") >= 2, "another", lambda: talk(client, 1))
        until(lambda: worker.learning is not None and worker.learning.learner is not hopeless, "another learner")
        assert worker.learning.counters.refused == 0
        assert version_of(client) == 1


def test_a_damaged_live_version_does_not_stop_the_worker(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client, working(settings):
        until(lambda: version_of(client) >= 2, "version 2 in service", lambda: talk(client, 1))
        live = report_of(redis, settings).version
        path = folder_of(settings.data_dir, live) / "policy.safetensors"
        blob = bytearray(path.read_bytes())
        blob[-1] ^= 1
        path.write_bytes(blob)
        until(lambda: report_of(redis, settings).version > live, "the next version", lambda: talk(client, 1))
        until(lambda: version_of(client) > live, "its service", lambda: talk(client, 1))


def test_a_worker_can_be_driven_to_an_entry_of_the_log(settings: Settings, redis: syncredis.Redis) -> None:
    settings = learning_settings(settings)
    with serving(settings) as client:
        talk(client, 30)
    last = redis.xinfo_stream(Keys(settings.key_prefix).events)["last-generated-id"].decode()
    worker = Worker(settings, threading.Event())
    worker.run_until(last)
    assert worker.learning is not None and worker.learning.counters.cursor == last
    again = Worker(settings, threading.Event())
    again.run_until("0-1")  # long taken in, by the checkpoint
    assert again.learning is not None and again.learning.counters.cursor == last
