"""A real Redis-protocol server, a small pre-trained snapshot and a real HTTP server for the service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as syncredis
import torch

from service.runtime import embedded
from service.settings import Settings
from service.store.keys import Keys
from tests.service.service_examples import make_settings, make_snapshot, serving, serving_http


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As the service does: two threads on a busy machine wait for each other most of the time."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for all tests; each test has its own key prefix."""
    with embedded.serving(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def snapshot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-trained snapshot."""
    return make_snapshot(tmp_path_factory.mktemp("snapshot") / "snapshot")


@pytest.fixture
def settings(redis_url: str, snapshot_folder: Path, tmp_path: Path) -> Settings:
    """Settings of a deployment that no other test shares."""
    return make_settings(redis_url, snapshot_folder, tmp_path)


@pytest.fixture
def keys(settings: Settings) -> Keys:
    """The deployment's keys."""
    return Keys(settings.key_prefix)


@pytest.fixture
def api(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a running API that serves the pre-trained policy."""
    with serving(settings) as client:
        yield client


@pytest.fixture
def http_api(settings: Settings) -> Iterator[httpx.Client]:
    """The same on a real socket, for clients of their own."""
    with serving_http(settings) as client:
        yield client


@pytest.fixture
def redis(redis_url: str) -> Iterator[syncredis.Redis]:
    """A plain client."""
    client = syncredis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands see the same deployment."""
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setenv("IALP_KEY_PREFIX", settings.key_prefix)
    monkeypatch.setenv("IALP_REWARD_WINDOW_S", str(settings.reward_window_s))


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the SDK's clients a test takes; see `client_examples.Both`."""
    return str(request.param)
