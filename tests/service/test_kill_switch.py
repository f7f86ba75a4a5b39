"""The kill switch reaches every process while a version loads, and stays thrown while Redis is away."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import redis as syncredis
import torch
from pydantic import ValidationError

from service.policy.snapshot import Snapshot
from service.policy.snapshot_files import load_snapshot
from service.policy.variants import ServingConfig, Variant
from service.runtime import embedded
from service.serving import loader
from service.settings import Settings
from service.store.events import Impression
from service.store.registry import Gate, folder_of
from tests.service.service_examples import (
    WAIT_S,
    Server,
    logged,
    make_settings,
    published,
    recommend,
    serving,
    until,
    until_ready,
)

pytestmark = pytest.mark.exclusive


def publish(redis: syncredis.Redis, settings: Settings, version: int) -> None:
    """A version whose learned policy is all that the adaptive arm gets."""
    first = load_snapshot(folder_of(settings.data_dir, 1))
    manifest = replace(first.manifest, version=version, parent=version - 1, serving=ServingConfig(Variant.FT))
    tensors = {**first.tensors, "learned.id_bias": torch.ones_like(first.tensors["learned.id_bias"])}
    snapshot = Snapshot(manifest, first.item_ids, tensors)
    published(redis, settings, snapshot, Gate(passed=True))


def sources(client: httpx.Client, n: int = 20) -> dict[str, set[str]]:
    """What each arm is served from."""
    found: dict[str, set[str]] = {"adaptive": set(), "control": set()}
    for user in range(n):
        slate = recommend(client, f"s{user}", k=1)
        found[slate["arm"]].update(item["source"] for item in slate["items"])
    return found


FROZEN = {"adaptive": {"pretrained"}, "control": {"pretrained"}}
LEARNED = {"adaptive": {"learned"}, "control": {"pretrained"}}


def until_from(client: httpx.Client, wanted: dict[str, set[str]], what: str) -> None:
    """Wait until each arm is served from there."""
    until(lambda: sources(client) == wanted, what)


@dataclass
class HeldUp:
    """The same deployment on a machine where loading a later version than 2 takes until `released`."""

    settings: Settings
    loading: threading.Event
    released: threading.Event


@pytest.fixture
def held_up(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> HeldUp:
    folder = settings.data_dir / ".." / settings.data_dir.name
    held = HeldUp(settings.model_copy(update={"data_dir": folder}), threading.Event(), threading.Event())

    def load(folder: Path) -> Snapshot:
        if ".." in folder.parts and int(folder.name) > 2:
            held.loading.set()
            held.released.wait(WAIT_S)
        return load_snapshot(folder)

    monkeypatch.setattr(loader, "load_snapshot", load)
    return held


def test_it_waits_for_no_load(settings: Settings, held_up: HeldUp, redis: syncredis.Redis) -> None:
    with serving(settings) as quick_client, Server(held_up.settings) as slow_client:
        clients = (quick_client, slow_client)
        publish(redis, settings, 2)
        for client in clients:
            until_from(client, LEARNED, "version 2")
        publish(redis, settings, 3)
        until(lambda: quick_client.get("/readyz").json()["policy_version"] == 3, "version 3")
        until(held_up.loading.is_set, "a load that takes its time")
        assert slow_client.get("/readyz").json()["policy_version"] == 2

        assert quick_client.post("/policies:freeze").json() == {
            "live_version": 3,
            "mode": "frozen",
            "shadow_version": None,
        }
        for client in clients:
            until_from(client, FROZEN, "the kill switch")
        before = len(logged(redis, settings))
        for client in clients:
            assert sources(client) == FROZEN
        impressions = [event for event in logged(redis, settings)[before:] if isinstance(event, Impression)]
        assert len(impressions) == 40 and {impression.weight for impression in impressions} == {0.0}
        assert {impression.arm for impression in impressions} == {"adaptive", "control"}

        held_up.released.set()
        assert quick_client.post("/policies/3:activate").json()["mode"] == "auto"
        for client in clients:
            until_from(client, LEARNED, "its end")
            assert client.get("/readyz").json()["policy_version"] == 3


def test_it_can_be_thrown_where_a_version_loads(settings: Settings, held_up: HeldUp, redis: syncredis.Redis) -> None:
    with serving(settings), Server(held_up.settings) as client:
        until_ready(client)
        publish(redis, settings, 2)
        until(lambda: sources(client) == LEARNED, "version 2")
        publish(redis, settings, 3)
        until(held_up.loading.is_set, "a load that takes its time")
        assert client.post("/policies:freeze").json() == {"live_version": 3, "mode": "frozen", "shadow_version": None}
        assert sources(client) == FROZEN, "from the very next answer on"
        assert client.put("/items/new", json={"text": "Items do not wait either"}).status_code == 201
        held_up.released.set()


def test_what_was_frozen_stays_so_until_the_next_version_is_here(
    settings: Settings, held_up: HeldUp, redis: syncredis.Redis
) -> None:
    """Lifting it by activating another version must not give the frozen one back in the meantime."""
    with serving(settings) as quick_client, Server(held_up.settings) as slow_client:
        until_ready(slow_client)
        publish(redis, settings, 2)
        until(lambda: sources(slow_client) == LEARNED, "version 2")
        quick_client.post("/policies:freeze")
        until(lambda: sources(slow_client) == FROZEN, "the kill switch")
        first = load_snapshot(folder_of(settings.data_dir, 2))
        third = Snapshot(replace(first.manifest, version=3, parent=2), first.item_ids, first.tensors)
        published(redis, settings, third, Gate(passed=True))
        assert quick_client.post("/policies/3:activate").json()["mode"] == "auto"
        assert sources(quick_client) == LEARNED
        until(held_up.loading.is_set, "a load that takes its time")
        for _ in range(10):
            assert sources(slow_client) == FROZEN
        held_up.released.set()
        until(lambda: sources(slow_client) == LEARNED, "version 3")


@pytest.mark.parametrize("turned_away", [True, False])
def test_what_became_of_the_pointer_while_a_version_loaded(
    settings: Settings,
    held_up: HeldUp,
    redis: syncredis.Redis,
    turned_away: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An operator who activates another version must not get this one; the worker, who is soon ahead again, may."""
    with serving(settings) as quick_client, Server(held_up.settings) as slow_client, caplog.at_level("INFO"):
        until_ready(slow_client)
        publish(redis, settings, 2)
        until(lambda: sources(slow_client) == LEARNED, "version 2")
        publish(redis, settings, 3)
        until(held_up.loading.is_set, "a load that takes its time")
        until(lambda: quick_client.get("/readyz").json()["policy_version"] == 3, "version 3 where loads are quick")
        if turned_away:
            assert slow_client.post("/policies/2:activate").json()["live_version"] == 2
            held_up.released.set()
            until(lambda: "version 3 was loaded, but is not to serve any more" in caplog.text, "the end of the load")
            assert slow_client.get("/readyz").json()["policy_version"] == 2
        else:
            publish(redis, settings, 4)
            until(lambda: quick_client.get("/readyz").json()["policy_version"] == 4, "version 4 where loads are quick")
            held_up.released.set()
            until(lambda: slow_client.get("/readyz").json()["policy_version"] == 4, "version 4")
    assert caplog.text.count("serving version 3") == (1 if turned_away else 2)


def test_it_stays_thrown_while_redis_is_away(snapshot_folder: Path, tmp_path: Path) -> None:
    with embedded.serving(tmp_path / "redis") as url:
        settings = make_settings(url, snapshot_folder, tmp_path / "service")
        with Server(settings) as client, syncredis.from_url(url) as redis:
            until_ready(client)
            publish(redis, settings, 2)
            until(lambda: sources(client) == LEARNED, "version 2")
            client.post("/policies:freeze")
            redis.shutdown(nosave=True)
            until(lambda: client.get("/readyz").json()["reasons"] == ["redis_unavailable"], "the outage")
            assert sources(client) == FROZEN


def test_no_setting_delays_it_by_a_second() -> None:
    with pytest.raises(ValidationError, match="refresh_interval_s"):
        Settings.model_validate({"refresh_interval_s": 0.6})


def test_the_variant_frozen_holds_for_versions_that_were_made_for_another(
    settings: Settings, redis: syncredis.Redis
) -> None:
    with serving(settings) as client:
        publish(redis, settings, 2)
        until(lambda: sources(client) == LEARNED, "version 2")
    with serving(settings.model_copy(update={"variant": Variant.FROZEN})) as client:
        until(lambda: client.get("/readyz").json()["policy_version"] == 2, "version 2")
        assert sources(client) == FROZEN
