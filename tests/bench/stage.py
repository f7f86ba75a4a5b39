"""What is measured: a catalogue, a policy and users of any size, a Redis-protocol server, and our processes on it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import redis as syncredis
import torch

from service.policy.networks import ItemScorer, NetworkConfig
from service.policy.snapshot import CatalogueItem, Snapshot, SnapshotCatalogue
from service.policy.snapshot_files import save_snapshot
from service.policy.text import TEXT_DIM, TextProjection
from service.policy.variants import ServingConfig
from service.runtime import embedded
from service.store import sessions
from service.store.keys import Keys

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
KEYS = Keys("ialp")
HISTORY, SHOWN = 20, 30  # of each user: responses, and items shown or used, theirs among them


def item_id(n: int) -> str:
    """Of the item in row `n`."""
    return f"item-{n}"


def popular_rows(rng: np.random.Generator, n_items: int, size: tuple[int, ...]) -> np.ndarray:
    """Items by Zipf's law: the one of rank r comes with a probability in proportion to 1 / r."""
    weights = 1.0 / np.arange(1, n_items + 1)
    return np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(size)).clip(max=n_items - 1)


def make_embeddings(n_items: int, seed: int = 0) -> np.ndarray:
    """Text embeddings [n_items, TEXT_DIM] in 200 clusters, as they are when Redis has kept them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((200, TEXT_DIM), np.float32)
    embeddings = centres[rng.integers(200, size=n_items)] + rng.standard_normal((n_items, TEXT_DIM), np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings.astype(np.float16).astype(np.float32)


def make_networks(n_items: int, text: torch.Tensor | None = None, seed: int = 0) -> tuple[ItemScorer, ItemScorer]:
    """A pre-trained network and one that builds on it, of the default size.

    Their numbers are about as large as those that A-iALP_ap learned on MovieLens in 2,500 sessions: f has a standard
    deviation of 0.3 over the items before and of 1 after.
    """
    config = NetworkConfig()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if text is None:
            text = torch.nn.functional.normalize(torch.randn(n_items, config.text_dim), dim=1)
        pretrained = ItemScorer(config, text)
        with torch.no_grad():
            pretrained.id_bias.normal_(0, 0.3)
            pretrained.gain[:2] = torch.tensor([0.5, 0.25])
            pretrained.leave[:] = torch.tensor([-5.6, 2.6])
        learned = pretrained.residual()
        with torch.no_grad():
            learned.id_vectors.add_(torch.randn_like(learned.id_vectors) * 0.02)
            learned.id_bias.normal_(0, 0.6)
            learned.gain[:2] = torch.tensor([0.5, 0.25])
            learned.repeat[:] = torch.tensor([0.2, 0.2, -2.6])
            learned.leave[:] = torch.tensor([-6.1, 4.8])
            learned.prior_gain.fill_(2.7)
            learned.begin_taste(1.0, 0.3)
            learned.taste_id.normal_(0, 0.05)
            learned.information.uniform_(0, 20)
    return pretrained, learned


def make_snapshot(folder: Path, n_items: int, seed: int = 0) -> Path:
    """A snapshot of these networks with its catalogue."""
    embeddings = make_embeddings(n_items, seed)
    items = tuple(CatalogueItem(item_id(n), f"Item number {n}", ()) for n in range(n_items))
    projection = TextProjection.fit(torch.from_numpy(embeddings[:20_000]), NetworkConfig().text_dim)
    pretrained, learned = make_networks(n_items, projection(torch.from_numpy(embeddings)), seed)
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
    save_snapshot(snapshot, folder, SnapshotCatalogue(items, embeddings))
    return folder


def load_users(redis: syncredis.Redis, n_users: int, n_items: int, seed: int = 0) -> None:
    """Sessions of HISTORY responses and SHOWN shown or used items for users u0, u1, ..."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_users, 1000):
        pipe = redis.pipeline(transaction=False)
        for n in range(start, min(n_users, start + 1000)):
            rows = list(dict.fromkeys(popular_rows(rng, n_items, (4 * SHOWN,)).tolist()))[:SHOWN]
            user = sessions.user_key(f"u{n}", None)
            rewards = rng.choice([1.0, 1.0, 0.2, -1.0], size=HISTORY)
            history = [
                (row, reward, 1.7e9 + k) for k, (row, reward) in enumerate(zip(rows, rewards.tolist(), strict=False))
            ]
            pipe.set(KEYS.session(user), sessions.encode(history, rows[len(history) :]), ex=30 * 86_400)
        pipe.execute()


@contextlib.contextmanager
def redis_server(folder: Path, core: int, durable: bool = True) -> Iterator[str]:
    """URL of a Redis-protocol server on one core, as `embedded` starts it: what it has acknowledged is on the disk."""
    with embedded.serving(folder) as url:
        with syncredis.from_url(url) as client:
            os.sched_setaffinity(client.info("server")["process_id"], {core})
            if not durable:
                client.config_set("appendonly", "no")
        yield url


@dataclass
class Program:
    """A process of this bench."""

    process: subprocess.Popen[bytes]
    url: str = ""
    started_s: float = 0.0  # from its start to its first answer

    @property
    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Memory that is resident now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def program(
    command: Sequence[str],
    log: Path,
    core: int | str,
    environment: Mapping[str, str],
    ready: str | None = None,
    nice: int = 0,
    start_s: float = 120.0,
) -> Iterator[Program]:
    """A process on a core, or on "0,1", until the block ends; waits until the URL `ready` answers with success."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["nice", "-n", str(nice), "taskset", "--cpu-list", str(core), *command],
            env={**os.environ, **ONE_THREAD, **environment},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    autogroup = Path(f"/proc/{process.pid}/autogroup")
    if nice and autogroup.exists():  # a session of its own has its share of the core whatever its processes' niceness
        autogroup.write_text(str(nice))
        os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
    running = Program(process)
    began = time.monotonic()
    try:
        if ready is not None:
            _wait(process, ready, log, start_s)
            running.started_s = time.monotonic() - began
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):  # and what it leaves behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, start_s: float) -> None:
    deadline = time.monotonic() + start_s
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code < 500:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{url} does not answer:\n{log.read_text()[-3000:]}")
        time.sleep(0.02)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Stage:
    """A deployment in `folder`: server, snapshot, users; API and worker as they are asked for."""

    folder: Path
    redis_url: str
    snapshot: Path
    settings: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def service(self, role: str, core: int | str, nice: int = 0, start_s: float = 120.0) -> Iterator[Program]:
        """`python -m service ROLE`; the API is ready when this begins."""
        port = free_port()
        environment = {
            "REDIS_URL": self.redis_url,
            "IALP_DATA_DIR": str(self.folder / "data"),
            "IALP_SNAPSHOT": str(self.snapshot),
            "IALP_PORT": str(port),
            "IALP_SEED": "1",
            **self.settings,
        }
        ready = f"http://127.0.0.1:{port}/readyz" if role == "api" else None
        command = [sys.executable, "-m", "service", role]
        with program(command, self.folder / f"{role}.log", core, environment, ready, nice, start_s) as running:
            running.url = f"http://127.0.0.1:{port}"
            yield running

    def key(self, scopes: str) -> str:
        """A new API key."""
        made = subprocess.run(
            [sys.executable, "-m", "service", "keys", "create", "--name", "bench", "--scopes", scopes],
            env={**os.environ, "REDIS_URL": self.redis_url},
            check=True,
            capture_output=True,
            text=True,
        )
        return made.stdout.split()[-1]
