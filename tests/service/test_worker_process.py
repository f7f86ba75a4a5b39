"""The worker as a process: kill -9 at any moment neither loses nor repeats an event's effect."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import redis as syncredis
import torch

from service.policy.snapshot_files import load_snapshot
from service.settings import Settings
from service.store import events
from service.store.bootstrap import bootstrap
from service.store.checkpoint import CheckpointStore
from service.store.connect import connect
from service.store.events import Event, Feedback, Impression
from service.store.keys import Keys
from service.store.registry import folder_of
from service.worker.counters import Meta
from tests.chaos.processes import preloaded_process, running
from tests.service.service_examples import N_ITEMS, learning_settings, make_settings, report_of, until

pytestmark = pytest.mark.exclusive

PUBLISH_EVERY = 150
# Impressions (about as many clicks come with them) and kills; the second with --chaos-results.
SHORT, LONG = (1_000, 6), (10_000, 50)


@pytest.fixture
def results(pytestconfig: pytest.Config) -> Path | None:
    """A file beside which the long form writes what it saw; None in the short form."""
    path: Path | None = pytestconfig.getoption("--chaos-results", default=None)
    return path


def traffic(n_impressions: int, seed: int) -> list[Event]:
    """A log of slates of three and clicks on Comedies, and of likes by themselves, in a fixed order."""
    rng = np.random.default_rng(seed)
    log: list[Event] = []
    for n in range(n_impressions):
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
        if n % 4 == 0:
            log.append(Feedback(f"{n}", f"u:{rng.integers(50)}", f"film-{rng.integers(N_ITEMS)}", 1.0))
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
            make_settings(redis_url, snapshot_folder, tmp_path / name), publish_every=PUBLISH_EVERY, lease_ttl_s=0.5
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


def until_read(redis: syncredis.Redis, settings: Settings, n: int) -> None:
    until(lambda: events_read(redis, settings) >= n, f"{n} events")


def kill_now_and_then(redis: syncredis.Redis, settings: Settings, log: list[Event], kills: int, folder: Path) -> None:
    """The log grows in parts; in each but the last the worker is killed at a random moment after a random event."""
    rng = np.random.default_rng(1)
    parts = np.array_split(np.arange(len(log)), kills + 1)
    for part in parts:
        start, end = int(part[0]), int(part[-1]) + 1
        fill(redis, Keys(settings.key_prefix), log[start:end], start)
        if end == len(log):
            break
        with running(preloaded_process("worker", settings, folder / "killed.log")) as worker:
            target = int(rng.integers(start + 1, end))
            until_read(redis, settings, target)
            time.sleep(rng.uniform(0, 0.1))  # reports follow checkpoints: a kill must not
            worker.kill()


@pytest.mark.timeout(1200)
async def test_kill_9_loses_and_repeats_nothing(
    deployments: list[Settings], redis: syncredis.Redis, results: Path | None, tmp_path: Path
) -> None:
    n_impressions, kills = SHORT if results is None else LONG
    log = traffic(n_impressions, seed=0)
    killed, undisturbed = deployments
    for settings in deployments:
        await prepare(settings)
    kill_now_and_then(redis, killed, log, kills, tmp_path)
    fill(redis, Keys(undisturbed.key_prefix), log, 0)

    for settings in deployments:
        with running(preloaded_process("worker", settings, tmp_path / "undisturbed.log")) as worker:
            until_read(redis, settings, len(log))
            assert events_read(redis, settings) == len(log)
            worker.stop()

    reports = [report_of(redis, settings) for settings in deployments]
    counted = dict(reports[0].events)
    n_organic, n_unlearned = counted.pop("feedback_organic"), counted.pop("feedback_organic_unlearned", 0)
    assert n_organic + n_unlearned == n_impressions // 4 and n_organic > n_impressions // 5
    n_feedback = len(log) - n_impressions - n_impressions // 4
    assert counted == {"impression": n_impressions, "feedback_joined": n_feedback}
    assert reports[0].arms["adaptive"].reward <= n_feedback
    for field in ("cursor", "events", "closed", "open", "arms", "version", "gate_rejections", "learner"):
        assert getattr(reports[0], field) == getattr(reports[1], field), field
    version = reports[0].version
    # After 50, 100 and 200; and then always after as many.
    assert version == 4 + (reports[0].closed + n_organic - 200) // PUBLISH_EVERY
    last = [load_snapshot(folder_of(settings.data_dir, version)).tensors for settings in deployments]
    assert_identical(*last)
    stacks = [redis.lrange(Keys(settings.key_prefix).activations, 0, -1) for settings in deployments]
    assert stacks[0] == stacks[1]

    checkpoints = [CheckpointStore(settings.data_dir / "worker", Meta, token=2**31).load() for settings in deployments]
    (meta, tensors), (expected, expected_tensors) = (checkpoint for checkpoint in checkpoints if checkpoint is not None)
    for field in Meta.__struct_fields__:
        assert getattr(meta, field) == getattr(expected, field), field
    assert any(name.startswith("replay") for name in tensors) and any(name.startswith("learner") for name in tensors)
    assert_identical(tensors, expected_tensors)
    if results is not None:
        told = {"events": len(log), "kills": kills, "learned": reports[0].events, "versions": version}
        told |= {"tensors_identical": len(tensors), "checkpoint_bytes": sum(t.nbytes for t in tensors.values())}
        results.with_name("exactly_once.json").write_text(json.dumps(told) + "\n")


def assert_identical(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Weights, optimiser, replay, generator: bit for bit."""
    assert ours.keys() == expected.keys()
    for name in ours:
        assert ours[name].numpy().tobytes() == expected[name].numpy().tobytes(), name
