"""The log: one line an event in either form, and which request it is about."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as syncredis

from service.settings import Settings
from service.store.keys import Keys
from tests.service.service_examples import api_process
from tests.service.test_dev import environment

PROGRAM = """
import logging
from service.runtime import process_log
from service.settings import Settings
process_log.begin(Settings())
log = logging.getLogger("ours")
log.info("told %d", 1)
process_log.request_id.set("some-request")
try:
    raise ValueError("of two\\nlines")
except ValueError:
    log.exception("failed")
"""


def written(**settings: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(
        command, env=environment(**settings), capture_output=True, text=True, check=True
    ).stderr.splitlines()


def test_json_is_a_line_an_event() -> None:
    told, failed = (json.loads(line) for line in written(IALP_LOG_FORMAT="json"))
    timestamp = told.pop("timestamp")
    assert datetime.fromisoformat(timestamp).utcoffset() == timedelta(0)
    assert told == {"level": "INFO", "logger": "ours", "message": "told 1", "request_id": ""}
    assert (failed["level"], failed["message"], failed["request_id"]) == ("ERROR", "failed", "some-request")
    assert failed["exception"].startswith("Traceback ") and failed["exception"].endswith("ValueError: of two\nlines")


def test_text_names_the_request_where_there_is_one() -> None:
    lines = written()
    assert lines[0].endswith(" INFO ours: told 1")
    assert lines[1].endswith(" ERROR ours: failed [some-request]") and lines[-1] == "lines"


def test_what_is_less_than_the_level_is_not_told() -> None:
    assert written(IALP_LOG_LEVEL="warning")[0].endswith("[some-request]")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_failing_request_is_found_by_the_id_in_its_answer(
    settings: Settings, redis: syncredis.Redis, tmp_path: Path, form: str
) -> None:
    log = tmp_path / "log"
    with api_process(settings.model_copy(update={"log_format": form}), log) as (_, client):
        redis.hset(Keys(settings.key_prefix).policies, "2", b"no record")
        redis.rename(Keys(settings.key_prefix).policies, "kept")
        redis.set(Keys(settings.key_prefix).policies, "no hash")
        failed = client.get("/policies")
        assert failed.status_code == 503
    lines = log.read_text().splitlines()
    if form == "text":
        about = [line for line in lines if line.endswith(f" [{failed.headers['x-request-id']}]")]
        assert len(about) == 1 and "Redis failed" in about[0]
    else:
        records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        mine = [record for record in records if record["request_id"] == failed.headers["x-request-id"]]
        assert len(mine) == 1 and "Redis failed" in mine[0]["message"] and mine[0]["logger"] == "service.api.errors"
        assert any("Uvicorn running on" in record["message"] for record in records), "uvicorn's own, too"
