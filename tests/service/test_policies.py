"""Versions: list, activate, roll back, freeze; swaps under load; what a damaged or foreign snapshot does."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis as syncredis
import torch

from service.policy.snapshot import Snapshot, SnapshotError
from service.policy.snapshot_files import load_snapshot
from service.policy.variants import Arm, ServingConfig, Variant
from service.settings import Settings
from service.store import registry
from service.store.bootstrap import bootstrap
from service.store.connect import connect
from service.store.keys import Keys
from service.store.registry import Gate, folder_of
from tests.service.service_examples import (
    Server,
    make_settings,
    make_snapshot,
    problem_of,
    published,
    recommend,
    serving,
    shown,
    until,
    until_ready,
)

LIKES = {2: "film-2", 3: "film-3", 4: "film-4"}  # version -> the item that it shows to everybody


def opinionated(settings: Settings, version: int) -> Snapshot:
    """A version whose learned policy all but always shows one item first."""
    first = load_snapshot(folder_of(settings.data_dir, 1))
    tensors = dict(first.tensors)
    bias = torch.zeros_like(tensors["learned.id_bias"])
    bias[int(LIKES.get(version, "film-9")[5:])] = 30.0
    tensors["learned.id_bias"] = bias
    manifest = replace(first.manifest, version=version, parent=version - 1, serving=ServingConfig(Variant.FT))
    return Snapshot(manifest, first.item_ids, tensors)


def publish(
    redis: syncredis.Redis,
    settings: Settings,
    version: int,
    gate: Gate | None = None,
    instead: tuple[int, int] | None = None,
) -> bool:
    """What the worker does after the gate."""
    gate = gate or Gate(passed=True)
    return published(redis, settings, opinionated(settings, version), gate, instead)


def adaptive_user(client: httpx.Client) -> str:
    """A user of the adaptive arm."""
    return next(u for n in range(100) if recommend(client, u := f"u{n}", k=1)["arm"] == "adaptive")


def activate(client: httpx.Client, version: int, **body: bool) -> dict[str, Any]:
    answer = client.post(f"/policies/{version}:activate", json=body or None)
    assert answer.status_code == 200, answer.text
    moved: dict[str, Any] = answer.json()
    return moved


def serves(client: httpx.Client, version: int) -> None:
    """Wait until a version answers, and hold it to its opinion."""
    until(lambda: client.get("/readyz").json()["policy_version"] == version, f"version {version}")
    fresh = f"{adaptive_user(client)}-{version}"
    while recommend(client, fresh, k=1)["arm"] != "adaptive":
        fresh += "x"
    slate = recommend(client, fresh, k=1)
    assert slate["policy_version"] == version


def test_versions_can_be_listed_activated_and_rolled_back(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    for version in (2, 3):
        assert publish(redis, settings, version)
    serves(api, 3)
    listed = api.get("/policies").json()
    assert (listed["live_version"], listed["mode"]) == (3, "auto")
    assert [(p["version"], p["parent"]) for p in listed["policies"]] == [(3, 2), (2, 1), (1, None)]
    for version in (2, 1):
        assert api.post("/policies:rollback").json() == {
            "live_version": version,
            "mode": "held",
            "shadow_version": None,
        }
        assert recommend(api, "ann")["policy_version"] == version, "takes effect at once"
    assert problem_of(api.post("/policies:rollback"), 409)["code"] == "conflict"
    assert activate(api, 3) == {"live_version": 3, "mode": "auto", "shadow_version": None}
    assert recommend(api, "ann")["policy_version"] == 3
    assert api.post("/policies:rollback").json()["live_version"] == 1


def test_a_held_version_keeps_the_workers_out_until_follow(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    publish(redis, settings, 2)
    assert activate(api, 1, follow=False) == {"live_version": 1, "mode": "held", "shadow_version": None}
    assert not publish(redis, settings, 3)
    assert recommend(api, "ann")["policy_version"] == 1
    assert activate(api, 3, follow=True)["mode"] == "auto"
    assert publish(redis, settings, 4)
    serves(api, 4)


def test_the_kill_switch_gives_everybody_the_pretrained_policy(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    publish(redis, settings, 2)
    serves(api, 2)
    assert recommend(api, f"{adaptive_user(api)}", k=1)["items"][0]["source"] == "learned"
    assert api.post("/policies:freeze").json() == {"live_version": 2, "mode": "frozen", "shadow_version": None}
    for n in range(30):
        assert {item["source"] for item in recommend(api, f"f{n}", k=5)["items"]} == {"pretrained"}
    assert not publish(redis, settings, 3), "the worker cannot lift it"
    assert activate(api, 3)["mode"] == "auto"
    assert "learned" in {item["source"] for n in range(30) for item in recommend(api, f"g{n}", k=2)["items"]}


def test_control_users_never_get_a_learned_policy(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    publish(redis, settings, 2)
    serves(api, 2)
    sources: dict[str, set[str]] = {str(arm): set() for arm in Arm}
    for n in range(60):
        slate = recommend(api, f"c{n}", k=1)
        sources[slate["arm"]].update(item["source"] for item in slate["items"])
    assert sources == {"control": {"pretrained"}, "adaptive": {"learned"}}


def test_what_cannot_be_activated(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    assert problem_of(api.post("/policies/7:activate"), 404)["code"] == "unknown_version"
    assert not publish(redis, settings, 2, Gate(passed=False, reasons=("entropy", "kl")))
    problem = problem_of(api.post("/policies/2:activate"), 409)
    assert "did not pass the gate: entropy, kl" in problem["detail"]
    (refused, _) = api.get("/policies").json()["policies"]
    assert (refused["gate_passed"], refused["gate_reasons"], refused["gate_share"]) == (False, ["entropy", "kl"], 1.0)
    assert activate(api, 2, force=True)["live_version"] == 2
    serves(api, 2)


def test_a_version_on_trial_gives_way_when_the_next_one_is_refused(
    api: httpx.Client, settings: Settings, redis: syncredis.Redis
) -> None:
    keys, refusal = Keys(settings.key_prefix), Gate(passed=False, reasons=("off_policy",))
    assert publish(redis, settings, 2)
    assert publish(redis, settings, 3, Gate(passed=True, share=0.1))
    until(lambda: api.get("/readyz").json()["policy_version"] == 3, "version 3")
    assert [one["gate_share"] for one in api.get("/policies").json()["policies"]] == [0.1, 1.0, 1.0]
    assert not publish(redis, settings, 4, refusal, instead=(3, 2))
    serves(api, 2)
    assert redis.lrange(keys.activations, 0, -1) == [b"1", b"2"], "a roll-back would not bring it back"
    assert not publish(redis, settings, 5, refusal, instead=(3, 2)), "which serves no more"
    assert publish(redis, settings, 6, Gate(passed=True, share=0.1))
    activate(api, 6, follow=False)
    assert not publish(redis, settings, 7, refusal, instead=(6, 2)), "an operator holds it"
    assert api.get("/policies").json()["live_version"] == 6


def test_publishing_again_changes_nothing(settings: Settings, redis: syncredis.Redis, api: httpx.Client) -> None:
    keys = Keys(settings.key_prefix)
    assert publish(redis, settings, 2) and publish(redis, settings, 2)
    assert redis.lrange(keys.activations, 0, -1) == [b"1", b"2"]
    activate(api, 1)
    assert not publish(redis, settings, 2, Gate(passed=False, reasons=("kl",)))
    assert api.get("/policies").json()["live_version"] == 1
    assert all(p["gate_passed"] for p in api.get("/policies").json()["policies"])


def test_pruning_keeps_what_may_be_needed(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    keys = Keys(settings.key_prefix)
    for version in range(2, 9):
        publish(redis, settings, version)
    registry.prune(redis, keys, settings.data_dir, keep=3, kept={3})
    kept = [policy["version"] for policy in api.get("/policies").json()["policies"]]
    assert kept == [8, 7, 6, 3, 1]
    assert sorted(int(f.name) for f in (settings.data_dir / "policies").iterdir()) == [1, 3, 6, 7, 8]
    back = [api.post("/policies:rollback").json().get("live_version") for _ in range(4)]
    assert back == [7, 6, 3, 1], "versions that were pruned are passed over"


def test_no_request_fails_while_versions_and_items_change(
    settings: Settings, redis: syncredis.Redis, http_api: httpx.Client
) -> None:
    done = threading.Event()
    statuses: list[int] = []
    versions: set[int] = set()

    def load(seed: int) -> None:
        with httpx.Client(base_url=http_api.base_url, timeout=30) as client:
            n = 0
            while not done.is_set():
                answer = client.post("/recommend", json={"user_id": f"load-{seed}-{(n := n + 1)}", "k": 5})
                statuses.append(answer.status_code)
                versions.add(answer.json().get("policy_version", -1))

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 12):
            publish(redis, settings, version)
            assert http_api.put(f"/items/new-{version}", json={"text": f"New film {version}"}).status_code == 201
            until(partial(versions.__contains__, version), "the new version")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert versions >= set(range(2, 12))


def test_a_damaged_version_keeps_the_old_one_in_service(
    settings: Settings, redis: syncredis.Redis, api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(settings.key_prefix)
    publish(redis, settings, 2, Gate(passed=False, reasons=("kl",)))
    damage(settings, 2)
    redis.set(keys.live, b'{"version": 2, "mode": "auto", "changed_at": 0}')
    until(lambda: "version 2 cannot be served" in caplog.text, "the complaint")
    assert recommend(api, "ann")["policy_version"] == 1
    assert api.put("/items/new", json={"text": "Still works"}).status_code == 201
    assert len(shown(recommend(api, "bob", k=31))) == 31, "new items are served by the old version"
    assert api.get("/readyz").json()["policy_version"] == 1


def test_a_damaged_version_is_not_activated(api: httpx.Client, settings: Settings, redis: syncredis.Redis) -> None:
    publish(redis, settings, 2)
    publish(redis, settings, 3)
    damage(settings, 2)
    refused = problem_of(api.post("/policies/2:activate"), 409)
    assert "version 2 is damaged" in refused["detail"].lower() and str(settings.data_dir) not in refused["detail"]
    assert api.get("/policies").json()["live_version"] == 3


def test_with_a_damaged_live_version_a_process_starts_on_the_one_that_served_before(
    settings: Settings, redis: syncredis.Redis
) -> None:
    with serving(settings) as client:
        publish(redis, settings, 2)
        publish(redis, settings, 3)
        assert client.get("/policies").json()["live_version"] == 3
    damage(settings, 3)
    with serving(settings) as client:
        assert recommend(client, "ann")["policy_version"] == 2
        publish(redis, settings, 4)
        until(lambda: recommend(client, "ann")["policy_version"] == 4, "the next one")


def damage(settings: Settings, version: int) -> None:
    """Change one bit of a version's weights."""
    path = folder_of(settings.data_dir, version) / "policy.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)


def test_two_servers_bring_in_the_first_version_once(settings: Settings, redis: syncredis.Redis) -> None:
    with Server(settings) as one, Server(settings) as two:
        for client in (one, two):
            until_ready(client)
        assert shown(recommend(one, "ann", k=3)) and shown(recommend(two, "ann", k=3))
    keys = Keys(settings.key_prefix)
    assert redis.lrange(keys.activations, 0, -1) == [b"1"]
    assert redis.hlen(keys.item_index) == 30


async def test_another_snapshot_on_the_same_redis_is_refused(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client, keys = connect(settings), Keys(settings.key_prefix)
    assert await bootstrap(client, keys, settings)
    other = settings.model_copy(update={"snapshot": make_snapshot(tmp_path / "other", seed=1)})
    with caplog.at_level(logging.WARNING):
        assert not await bootstrap(client, keys, settings)
        assert caplog.text == ""
        assert not await bootstrap(client, keys, other)
    assert "began with another snapshot" in caplog.text
    await client.delete(keys.live, keys.policies)
    smaller = settings.model_copy(update={"snapshot": make_snapshot(tmp_path / "smaller", n_items=5)})
    with pytest.raises(SnapshotError, match="is of another catalogue"):
        await bootstrap(client, keys, smaller)
    await client.aclose()


async def test_items_that_a_snapshot_does_not_know_are_refused(settings: Settings, tmp_path: Path) -> None:
    client, keys = connect(settings), Keys(settings.key_prefix)
    await client.hset(keys.item_index, "somebody-elses", 0)
    with pytest.raises(SnapshotError, match="use another key prefix"):
        await bootstrap(client, keys, settings)
    await client.aclose()


async def test_a_bootstrap_that_was_killed_half_way_is_finished(settings: Settings) -> None:
    client, keys = connect(settings), Keys(settings.key_prefix)
    assert await bootstrap(client, keys, settings)
    await client.delete(keys.live, keys.policies, keys.activations)
    assert await bootstrap(client, keys, settings)
    assert await client.lrange(keys.activations, 0, -1) == [b"1"]
    outcomes = await asyncio.gather(*(bootstrap(client, keys, settings) for _ in range(3)))
    assert outcomes == [False] * 3
    await client.aclose()


def test_an_emptied_redis_is_served_as_an_empty_catalogue(
    settings: Settings, redis: syncredis.Redis, redis_url: str, snapshot_folder: Path, tmp_path: Path
) -> None:
    with serving(make_settings(redis_url, snapshot_folder, tmp_path / "emptied")) as client:
        recommend(client, "ann")
        for key in redis.scan_iter(f"test:{tmp_path.name}:emptied:*"):
            redis.delete(key)
        for _ in range(5):
            slate = recommend(client, "ann")
            assert slate["policy_version"] in (0, 1)
        until(lambda: client.get("/readyz").status_code == 503, "not ready")
        assert recommend(client, "ann")["warnings"] == ["no_policy", "catalogue_empty", "fewer_items_than_k"]
