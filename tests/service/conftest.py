"""A real Redis-protocol server, a small pre-trained snapshot and a real HTTP server for the service's tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import redis as syncredis
import torch
import uvicorn

from service import embedded
from service.main import create_app
from service.policy.adaptive import ServingConfig
from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.snapshot import CatalogueItem, Snapshot, SnapshotCatalogue, save_snapshot
from service.policy.text import HashingEncoder, TextProjection, item_text
from service.settings import Settings

N_ITEMS = 30
WAIT_S = 20.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.01)


def make_snapshot(folder: Path, n_items: int = N_ITEMS, seed: int = 0) -> Path:
    """A snapshot of `n_items` films in three genres with a mildly opinionated random policy."""
    items = tuple(
        CatalogueItem(f"film-{n}", f"Film number {n}", (("Drama", "Comedy", "Western")[n % 3],)) for n in range(n_items)
    )
    embeddings = HashingEncoder().encode([item_text(i.text, i.categories) for i in items])
    projection = TextProjection.fit(torch.from_numpy(embeddings), 16)
    config = NetworkConfig(dim=8, text_dim=16, max_history=10)
    text = projection(torch.from_numpy(embeddings))
    torch.manual_seed(seed)
    pretrained, critic = ItemScorer(config, text), ItemScorer(config, text)
    with torch.no_grad():
        pretrained.id_bias.normal_(0, 0.5)
        pretrained.profile_gain.copy_(torch.tensor([2.0, 1.0, -1.0]))
    snapshot = Snapshot.of(
        version=1,
        parent=None,
        created_at=0.0,
        item_ids=tuple(item.item_id for item in items),
        text_encoder="hashing",
        projection=projection,
        serving=ServingConfig(),
        pretrained=pretrained,
        learned=pretrained,
        critic=critic,
        learner={},
        lineage={},
        metrics={},
    )
    save_snapshot(snapshot, folder, SnapshotCatalogue(items, embeddings.astype(np.float32)))
    return folder


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
def settings(redis_url: str, snapshot_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings of a deployment that no other test shares."""
    return make_settings(redis_url, snapshot_folder, tmp_path, request.node.name)


def make_settings(redis_url: str, snapshot: Path | None, folder: Path, name: str, **changes: object) -> Settings:
    """Test settings with some fields changed."""
    values: dict[str, object] = {
        "redis_url": redis_url,
        "key_prefix": f"test:{name}:{folder.name}",
        "data_dir": folder / "data",
        "snapshot": snapshot,
        "seed": 1,
        "refresh_interval_s": 0.02,
        "reward_window_s": 0.05,
        "control_share": 0.3,
        "port": 0,
    }
    return Settings.model_validate(values | changes)


class Server:
    """The API on a real socket, in a thread."""

    def __init__(self, settings: Settings) -> None:
        config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None, lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> httpx.Client:
        self._thread.start()
        until(lambda: self._server.started, "the HTTP server")
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def api(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a running API that serves the pre-trained policy."""
    with Server(settings) as client:
        until(lambda: client.get("/readyz").status_code == 200, "readiness")
        yield client


@pytest.fixture
def redis(redis_url: str) -> Iterator[syncredis.Redis]:
    """A plain client."""
    client = syncredis.from_url(redis_url)
    yield client
    client.close()
