"""/metrics: the names of the contract are there, move, and cannot be multiplied by a client."""

from __future__ import annotations

import httpx
import redis as syncredis

from service.settings import Settings
from service.store.events import Feedback, encode
from service.store.keys import Keys
from tests.service.service_examples import learning_settings, recommend, respond, serving, talk, until, working

NAMES = [
    "http_server_request_duration_seconds",
    "ialp_feedback_lag_seconds",
    "ialp_policy_age_seconds",
    "ialp_policy_version",
    "ialp_mix_weight",
    "ialp_policy_entropy",
    "ialp_ope_ess",
    "ialp_reward_total",
    "ialp_impressions_total",
    "ialp_gate_rejections_total",
    "ialp_stream_pending",
]


def samples(client: httpx.Client) -> dict[str, float]:
    """Value by name and labels."""
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_contracts_metrics_are_there_and_move(settings: Settings) -> None:
    with serving(learning_settings(settings, gate_margin=-100.0)) as client:
        recommend(client, "ann")
        with working(learning_settings(settings, gate_margin=-100.0)):
            talk(client, 60)
            until(lambda: "gate_rejections_total{" in client.get("/metrics").text, "a refusal", lambda: talk(client, 1))
        recommend(client, "bob")  # the last slate is not of one who has seen it all
        found = samples(client)
    for name in NAMES:
        assert any(sample.startswith(name) for sample in found), name
    assert found["ialp_policy_version"] == 1
    assert found['ialp_impressions_total{arm="adaptive"}'] + found['ialp_impressions_total{arm="control"}'] > 60
    assert found['ialp_reward_total{arm="adaptive"}'] > 0
    assert found["ialp_policy_entropy"] > 0
    assert found['ialp_gate_rejections_total{reason="off_policy"}'] >= 1
    assert found["ialp_ope_ess"] > 0


def test_what_no_worker_told_is_not_told(api: httpx.Client) -> None:
    """A 0 in place of what is not known would be a fall, and then a rise: an alert."""
    found = samples(api)
    assert found["ialp_redis_up"] == 1 and found["ialp_policy_frozen"] == 0
    assert not any(name.startswith(("ialp_rollbacks", "ialp_worker_disk", "ialp_ope_ess")) for name in found)


def test_the_lag_ends_with_the_backlog(settings: Settings, redis: syncredis.Redis, keys: Keys) -> None:
    """What was read late must not be told as lag while nothing more comes."""
    settings = learning_settings(settings)
    with serving(settings) as client:
        old = Feedback(event_id="e", user="u:ann", item_id="film-1", reward=1.0)
        redis.xadd(keys.events, {"e": encode(old)}, id="1000-0")
        with working(settings):
            until(lambda: samples(client).get('ialp_log_events_total{kind="feedback_organic"}') == 1, "the old event")
            until(lambda: samples(client)["ialp_feedback_lag_seconds"] == 0, "no lag")


def test_pending_counts_what_no_worker_read(api: httpx.Client) -> None:
    for n in range(3):
        recommend(api, f"u{n}")
    respond(api, {"event_id": "e", "user_id": "u", "item_id": "film-1", "type": "click"})
    assert samples(api)["ialp_stream_pending"] == 4


def test_labels_are_routes_and_known_methods(api: httpx.Client) -> None:
    for n in range(3):
        api.get(f"/users/nobody-{n}")
        api.get(f"/nowhere-{n}")
    api.request("PROPFIND", "/recommend")
    counted = [name for name in samples(api) if name.startswith("http_server_request_duration_seconds_count")]
    assert not any("nobody" in name or "nowhere" in name or "PROPFIND" in name for name in counted)
    assert any('http_route="/users/{user_id:opaque}"' in name for name in counted)
    assert any('http_request_method="_OTHER"' in name for name in counted)
