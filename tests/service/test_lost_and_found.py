"""Folders and Redis that do not belong together: told once, with what to do, and mended where that can be done."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest
import redis as syncredis
import typer

from service.cli import processes
from service.policy.snapshot import SnapshotError
from service.settings import Settings
from service.store.bootstrap import bootstrap
from service.store.connect import connect
from service.store.keys import Keys
from service.store.registry import folder_of
from tests.service.service_examples import (
    Server,
    learning_settings,
    make_snapshot,
    recommend,
    report_of,
    serving,
    talk,
    until,
    working,
)
from tests.service.test_insight import events_of


def learn(settings: Settings, redis: syncredis.Redis, versions: int = 2) -> None:
    """A deployment that has published some versions."""
    with working(settings), serving(settings) as client:
        users = iter(range(10**6))
        until(lambda: report_of(redis, settings).version >= versions, "versions", lambda: talk(client, 5, next(users)))


def begin(settings: Settings) -> None:
    async def begun() -> None:
        client = connect(settings)
        try:
            await bootstrap(client, Keys(settings.key_prefix), settings)
        finally:
            await client.aclose()

    asyncio.run(begun())


def lines(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def test_lost_versions_are_brought_back_from_the_snapshot(
    settings: Settings, redis: syncredis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    settings = learning_settings(settings)
    learn(settings, redis)
    known = report_of(redis, settings).version
    shutil.rmtree(settings.data_dir / "policies")
    caplog.clear()
    with caplog.at_level(logging.INFO), serving(settings) as client, working(settings):
        assert recommend(client, "ann")["policy_version"] == 1
        users = iter(range(10**6))
        until(
            lambda: report_of(redis, settings).version > known, "the next version", lambda: talk(client, 5, next(users))
        )
        until(lambda: recommend(client, "ann")["policy_version"] > known, "it to serve")
    assert lines(caplog, "the first is brought back from") == 1
    assert lines(caplog, "cannot be served") <= 2, "of each version once"


def test_where_they_cannot_be_it_is_said_once_what_to_do(
    settings: Settings, redis: syncredis.Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = learning_settings(settings)
    begin(settings)
    shutil.rmtree(settings.data_dir / "policies")
    other = make_snapshot(tmp_path / "other", seed=5)
    for snapshot, told in ((None, "name the snapshot that the deployment began with"), (other, "is not what")):
        changed = settings.model_copy(update={"snapshot": snapshot})
        with pytest.raises(SnapshotError, match=told) as error:
            begin(changed)
        assert "Put the folder back" in str(error.value)
        caplog.clear()
        with working(changed), Server(changed) as client:
            until(lambda: lines(caplog, "cannot go on until this is mended") == 1, "the worker's word")
            until(lambda: lines(caplog, "starting without a policy") == 1, "the API's word")
            (_, _), (_, now) = events_of(client, 2)
            assert isinstance(now, dict)
            told_there = {one["kind"]: one["text"] for one in now["trouble"]}["no_policy"]
            assert "No policy is loaded (" in told_there
            for _ in range(3):  # the time of several tries
                assert client.get("/readyz").status_code == 503
        assert lines(caplog, "cannot go on until this is mended") == 1
        assert lines(caplog, "starting without a policy") == 1
        shutil.rmtree(settings.data_dir / "worker", ignore_errors=True)


def test_a_restored_folder_under_another_prefix_is_no_new_deployment(
    settings: Settings, redis: syncredis.Redis
) -> None:
    settings = learning_settings(settings)
    learn(settings, redis)
    elsewhere = settings.model_copy(update={"key_prefix": f"{settings.key_prefix}-typo"})
    for changed in (elsewhere, elsewhere.model_copy(update={"snapshot": None})):
        with pytest.raises(SnapshotError, match="IALP_KEY_PREFIX=") as error:
            begin(changed)
        assert settings.key_prefix in str(error.value) and "has versions up to" in str(error.value)
    assert not redis.exists(Keys(elsewhere.key_prefix).live)
    begin(elsewhere.model_copy(update={"data_dir": settings.data_dir / "new"}))


def test_a_published_version_is_no_snapshot_to_begin_with(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(settings)
    version = folder_of(settings.data_dir, 1)
    with pytest.raises(SnapshotError, match="which has no catalogue of its own; name the folder that"):
        begin(
            settings.model_copy(
                update={"key_prefix": "another", "snapshot": version, "data_dir": settings.data_dir / "n"}
            )
        )
    with pytest.raises(typer.Exit):
        processes._require_snapshot(settings.model_copy(update={"snapshot": version}))
    assert "has no catalogue of its own" in capsys.readouterr().err
