"""The worker as a process: kill -9 at any moment neither loses nor repeats an event's effect."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis as syncredis
import torch
from service_examples import N_ITEMS, learning_settings, make_settings, report_of, until

from service import events
from service.bootstrap import bootstrap
from service.events import Event, Feedback, Impression
from service.keys import Keys
from service.main import connect
from service.policy.snapshot import load_snapshot
from service.registry import folder_of
from service.settings import Settings

N_IMPRESSIONS = 900


@contextlib.contextmanager
def worker_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m service worker` with `settings`; killed at the end if it still runs."""
    given = settings.model_dump(mode="json", exclude={"redis_url", "learner_config", "rewards", "seed"})
    environment = {**os.environ, "REDIS_URL": settings.redis_url, "OMP_NUM_THREADS": "1"}
    environment |= {f"IALP_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen([sys.executable, "-m", "service", "worker"], env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def traffic(seed: int) -> list[Event]:
    """A log of slates of three and clicks on Comedies, in a fixed order."""
    rng = np.random.default_rng(seed)
    log: list[Event] = []
    for n in range(N_IMPRESSIONS):
        items = tuple(f"film-{i}" for i in rng.choice(N_ITEMS, 3, replace=False))
        user = f"u:{rng.integers(50)}"
        log.append(
            Impression(
                recommendation_id=f"r{n}",
                user=user,
                arm="adaptive",
                policy_version=1,
                history=((f"film-{rng.integers(N_ITEMS)}", 1.0),),
                items=items,
                propensities=(1 / 30, 1 / 29, 1 / 28),
                candidate_hash="",
            )
        )
        clicked = [item for item in items if int(item[5:]) % 3 == 1]
        log += [Feedback(f"{n}-{item}", user, item, 1.0, recommendation_id=f"r{n}") for item in clicked]
    return log


def fill(redis: syncredis.Redis, keys: Keys, log: list[Event], first: int) -> None:
    """Append with explicit ids, 10 ms apart, so that two runs see the same clock."""
    pipe = redis.pipeline(transaction=False)
    for n, event in enumerate(log, start=first):
        pipe.xadd(keys.events, {events.FIELD: events.encode(event)}, id=f"{1_000_000 + 10 * n}-0")
    pipe.execute()


@pytest.fixture
def deployments(redis_url: str, snapshot_folder: Path, tmp_path: Path) -> list[Settings]:
    """Two deployments with the same settings and their own data."""
    return [
        learning_settings(
            make_settings(redis_url, snapshot_folder, tmp_path / name), publish_every=150, lease_ttl_s=0.5
        )
        for name in ("killed", "undisturbed")
    ]


async def prepare(settings: Settings) -> None:
    """Version 1, so that the log can be filled before a worker runs."""
    client = connect(settings)
    await bootstrap(client, Keys(settings.key_prefix), settings)
    await client.aclose()


def events_read(redis: syncredis.Redis, settings: Settings) -> int:
    return sum(report_of(redis, settings).events.values())


async def test_kill_9_loses_and_repeats_nothing(deployments: list[Settings], redis: syncredis.Redis) -> None:
    log = traffic(seed=0)
    rng = np.random.default_rng(1)
    killed, undisturbed = deployments
    for settings in deployments:
        await prepare(settings)

    # The log grows in parts; each part but the last is cut off at a random point of it.
    parts = np.array_split(np.arange(len(log)), 4)
    for part in parts:
        start, end = int(part[0]), int(part[-1]) + 1
        fill(redis, Keys(killed.key_prefix), log[start:end], start)
        if end == len(log):
            break
        with worker_process(killed) as process:
            target = int(rng.integers(start + 1, end))
            until(lambda target=target: events_read(redis, killed) >= target, "some progress")  # type: ignore[misc]
            process.send_signal(signal.SIGKILL)
            process.wait()
    fill(redis, Keys(undisturbed.key_prefix), log, 0)

    for settings in deployments:
        with worker_process(settings) as process:
            until(lambda settings=settings: events_read(redis, settings) == len(log), "the log's end")  # type: ignore[misc]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0

    reports = [report_of(redis, settings) for settings in deployments]
    n_feedback = len(log) - N_IMPRESSIONS
    assert reports[0].events == {"impression": N_IMPRESSIONS, "feedback_joined": n_feedback}
    assert reports[0].arms["adaptive"].reward <= n_feedback
    for field in ("cursor", "events", "closed", "open", "arms", "version", "gate_rejections", "learner"):
        assert getattr(reports[0], field) == getattr(reports[1], field), field
    version = reports[0].version
    assert version == 1 + (reports[0].closed // 150)
    last = [load_snapshot(folder_of(settings.data_dir, version)) for settings in deployments]
    assert last[0].tensors.keys() == last[1].tensors.keys()
    assert all(torch.equal(last[0].tensors[name], last[1].tensors[name]) for name in last[0].tensors)
    stacks = [redis.lrange(Keys(settings.key_prefix).activations, 0, -1) for settings in deployments]
    assert stacks[0] == stacks[1]
    checkpoints = [max((settings.data_dir / "worker").glob("checkpoint-*")).read_bytes() for settings in deployments]
    assert checkpoints[0] == checkpoints[1]
