"""A release whose networks are others meets the snapshots of the one before: it says what to do, and serves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis as syncredis

from service.policy.snapshot import FORMAT
from service.settings import Settings
from service.store.registry import folder_of
from tests.service.service_examples import Server, learning_settings, make_snapshot, serving, until, working

WHAT_TO_DO = f"manifest.json: format {FORMAT - 1}, this version reads {FORMAT}: run `python -m offline pretrain` again"


def age(folder: Path) -> None:
    """Let a snapshot be of the format before ours."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": FORMAT - 1}))


def test_an_api_does_not_begin_with_an_old_snapshot(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_snapshot(tmp_path / "old")
    age(folder)
    with Server(settings.model_copy(update={"snapshot": folder})) as client:
        until(lambda: WHAT_TO_DO in caplog.text, "the complaint")
        assert f"starting without a policy: {folder}" in caplog.text
        assert client.get("/readyz").status_code == 503


def test_neither_api_nor_worker_goes_on_from_an_old_version(
    settings: Settings, redis: syncredis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    settings = learning_settings(settings)
    with serving(settings):
        pass
    age(folder_of(settings.data_dir, 1))
    with Server(settings) as client:
        until(lambda: "version 1 cannot be served" in caplog.text, "the API's complaint")
        assert caplog.text.count(WHAT_TO_DO) >= 1
        assert client.get("/readyz").status_code == 503
    caplog.clear()
    with working(settings) as worker:
        until(lambda: "cannot go on until this is mended" in caplog.text, "the worker's complaint")
        assert WHAT_TO_DO in caplog.text and worker.learning is None
