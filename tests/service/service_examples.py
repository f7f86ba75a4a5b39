"""What the service's tests share: a small snapshot, settings, a running API and a running worker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import numpy as np
import redis as syncredis
import torch
from starlette.testclient import TestClient

from service.api import server
from service.api.app import create_app
from service.policy.networks import N_LEADING, ItemScorer, NetworkConfig
from service.policy.snapshot import CatalogueItem, Snapshot, SnapshotCatalogue
from service.policy.snapshot_files import save_snapshot
from service.policy.text import HashingEncoder, TextProjection, item_text
from service.policy.variants import ServingConfig
from service.settings import Settings
from service.store import event_log, events, registry
from service.store.keys import Keys
from service.store.lease import Lease
from service.store.registry import Gate
from service.store.worker_report import WorkerReport
from service.worker.worker import Worker

N_ITEMS = 30
WAIT_S = 40.0
GENRES = ("Drama", "Comedy", "Western")


def until(condition: Callable[[], bool], what: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait for a condition; `meanwhile` is done before each look at it."""
    deadline = time.monotonic() + WAIT_S
    meanwhile()
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.01)
        meanwhile()


def until_ready(client: httpx.Client) -> None:
    """Wait until an API says that it is ready."""
    until(lambda: client.get("/readyz").status_code == 200, "readiness")


def make_snapshot(
    folder: Path, n_items: int = N_ITEMS, seed: int = 0, gain: Sequence[float] = (2.0, 1.0, 0.0, 0.0)
) -> Path:
    """A snapshot of `n_items` films in three genres with a mildly opinionated random policy; written to `folder`.

    `gain`: how much it shows of what is like the items that were liked, liked last, disliked and ignored.
    """
    items = tuple(CatalogueItem(f"film-{n}", f"Film number {n}", (GENRES[n % 3],)) for n in range(n_items))
    embeddings = HashingEncoder().encode([item_text(i.text, i.categories) for i in items])
    projection = TextProjection.fit(torch.from_numpy(embeddings), N_LEADING)
    text = projection(torch.from_numpy(embeddings))
    config = NetworkConfig(dim=N_LEADING, text_dim=N_LEADING, max_history=10, temperature=1.0, horizon=2.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pretrained, learned = (ItemScorer(config, text) for _ in range(2))
        with torch.no_grad():
            pretrained.id_bias.normal_(0, 0.5)
            pretrained.gain.copy_(torch.tensor(gain))
            learned.load_state_dict(pretrained.state_dict())
    snapshot = Snapshot.of(
        version=1,
        parent=None,
        created_at=0.0,
        item_ids=tuple(item.item_id for item in items),
        text_encoder="hashing",
        projection=projection,
        serving=ServingConfig(),
        pretrained=pretrained,
        learned=learned,
        critic=learned,
        learner={},
        lineage={},
        metrics={},
    )
    save_snapshot(snapshot, folder, SnapshotCatalogue(items, embeddings.astype(np.float32)))
    return folder


def make_settings(redis_url: str, snapshot: Path | None, folder: Path, **changes: object) -> Settings:
    """Settings of a deployment of its own in `folder`, with some fields changed."""
    values: dict[str, object] = {
        "redis_url": redis_url,
        "key_prefix": f"test:{folder.parent.name}:{folder.name}",
        "data_dir": folder / "data",
        "snapshot": snapshot,
        "seed": 1,
        "refresh_interval_s": 0.02,
        "reward_window_s": 0.05,
        "control_share": 0.3,
        "auth": "off",
        "port": 0,
    }
    return Settings.model_validate(values | changes)


def learning_settings(settings: Settings, **changes: object) -> Settings:
    """The same deployment with a worker that publishes after a few events."""
    quick: dict[str, object] = {"learn_every": 10, "publish_every": 40, "checkpoint_every": 100, "replay_capacity": 500}
    return settings.model_copy(update=quick | changes)


class Server:
    """The API on a real socket, in a thread."""

    def __init__(self, settings: Settings) -> None:
        settings = settings.model_copy(update={"port": 0})
        self._host = settings.host
        self._server = server.Server(create_app(settings), settings)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> httpx.Client:
        self._thread.start()
        until(lambda: self._server.started, "the HTTP server")
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        host = "[::1]" if ":" in self._host else "127.0.0.1"
        self._client = httpx.Client(base_url=f"http://{host}:{self.port}", timeout=30)
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join()


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[httpx.Client]:
    """A client of an API in this process that is ready, without a socket."""
    app = create_app(settings)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False) as inside:
        client = cast(httpx.Client, inside)  # it is httpx2's, which has all that httpx's has
        until_ready(client)
        yield client


@contextlib.contextmanager
def serving_http(settings: Settings) -> Iterator[httpx.Client]:
    """A client of an API on a real socket that is ready."""
    with Server(settings) as client:
        until_ready(client)
        yield client


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of a process with these settings."""
    given = settings.model_dump(mode="json", exclude={"redis_url", "learner_config", "rewards", "seed"})
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IALP_")}
    ours = {f"IALP_{name.upper()}": str(value) for name, value in given.items() if value is not None}
    return inherited | ours | {"REDIS_URL": settings.redis_url, "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def api_process(settings: Settings, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`python -m service api`, ready, and a client of it; writes to `log`, is killed at the end if it still runs."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "api"], env=environment_of(settings), stdout=out, stderr=out
        )
    try:
        until(lambda: "Uvicorn running on " in log.read_text(), "the API process")
        url = log.read_text().partition("Uvicorn running on ")[2].split()[0]
        with httpx.Client(base_url=url, timeout=30) as client:
            until_ready(client)
            yield process, client
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def working(settings: Settings) -> Iterator[Worker]:
    """A worker in a thread; it must not have failed by the end."""
    stop = threading.Event()
    worker = Worker(settings, stop)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join()
    assert not failures, failures


def published(
    redis: syncredis.Redis,
    settings: Settings,
    snapshot: Snapshot,
    gate: Gate,
    instead: tuple[int, int] | None = None,
) -> bool:
    """Publish a version as the worker does after the gate; says whether it serves."""
    keys = Keys(settings.key_prefix)
    lease = Lease(redis, keys, 60.0)
    assert lease.acquire()
    serves = registry.publish(redis, lease, keys, settings.data_dir, snapshot, gate, instead)
    lease.release()
    return serves


def recommend(client: httpx.Client, user: str | None = None, **fields: Any) -> dict[str, Any]:
    """A slate, which must be had."""
    body = fields if user is None else {"user_id": user, **fields}
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    slate: dict[str, Any] = answer.json()
    return slate


def shown(slate: dict[str, Any]) -> list[str]:
    """A slate's item ids."""
    return [item["item_id"] for item in slate["items"]]


def respond(client: httpx.Client, *sent: dict[str, Any]) -> dict[str, Any]:
    """Feedback, which must be taken."""
    answer = client.post("/feedback", json=list(sent) if len(sent) != 1 else sent[0])
    assert answer.status_code == 202, answer.text
    outcome: dict[str, Any] = answer.json()
    return outcome


def talk(client: httpx.Client, n: int, start: int = 0, k: int = 3) -> None:
    """`n` slates, each of a user of its own who clicks Comedies."""
    for number in range(start, start + n):
        slate = recommend(client, f"user-{number}", k=k)
        clicks = [item for item in shown(slate) if item.startswith("film-") and int(item[5:]) % 3 == 1]
        sent = [
            {
                "event_id": f"{number}-{item}",
                "recommendation_id": slate["recommendation_id"],
                "user_id": f"user-{number}",
                "item_id": item,
                "type": "click",
            }
            for item in clicks
        ]
        if sent:
            respond(client, *sent)


def report_of(redis: syncredis.Redis, settings: Settings) -> WorkerReport:
    """What the worker last reported; an empty report if it never did."""
    data = redis.get(Keys(settings.key_prefix).worker)
    return msgspec.json.decode(data, type=WorkerReport) if data else WorkerReport()


def logged(redis: syncredis.Redis, settings: Settings) -> list[events.Event]:
    """All events of the log."""
    return [events.decode(data) for _, data in event_log.read(redis, Keys(settings.key_prefix), "0-0", 100_000, 1)]


def problem_of(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The problem document of an answer, checked for form."""
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text[:500]}"
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(answer.content)
    assert set(document) == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert document["status"] == answer.status_code
    assert document["type"] == f"urn:ialp:problem:{document['code']}"
    assert document["request_id"] == answer.headers["x-request-id"]
    assert all(set(error) == {"field", "code", "message"} for error in document["errors"])
    return document
