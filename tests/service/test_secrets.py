"""Keys and passwords are planted where a client or a deployment can put them, and looked for where they could show."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as syncredis

from service.api import fast_path
from service.runtime import embedded
from service.store.keys import Keys
from tests.service.auth_examples import add_key, bearer
from tests.service.service_examples import make_settings, serving, until
from tests.service.test_dev import children, environment, free_port, ready

PASSWORD = "pass-w0rd-of-redis"
WRONG = "ialp_0123456789ab_wrong-token-that-was-sent"
EVENT = {"event_id": "e", "user_id": "ann", "item_id": "film-1", "type": "click"}
BODIES: dict[str, object] = {"/recommend": {"user_id": "ann"}, "/feedback": EVENT, "/items/new": {"text": "A film"}}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A server that asks for a password; its URL."""
    with embedded.serving(tmp_path / "redis") as url:
        with syncredis.from_url(url) as client:
            client.config_set("requirepass", PASSWORD)
        yield f"unix://:{PASSWORD}@{url.removeprefix('unix://')}"


def planted(client: httpx.Client, token: str) -> list[httpx.Response]:
    """Answers to a right and a wrong token, in all headers and in the query, to good and to broken requests."""
    answers = []
    for given in (token, WRONG):
        for headers in (bearer(given), {"x-api-key": given}, {"authorization": f"Basic {given}"}, {"cookie": given}):
            for path in ("/policies", "/metrics", "/evaluation", "/users/nobody", "/nowhere", "/openapi.json", "/docs"):
                answers += [client.get(path, headers=headers), client.get(path, params={"api_key": given})]
            for path, body in BODIES.items():
                method = "PUT" if path.startswith("/items") else "POST"
                for sent in (body, {"k": -1, "api_key": given}):
                    answers.append(client.request(method, path, json=sent, headers=headers, params={"key": given}))
    return answers


def everything(redis: syncredis.Redis) -> bytes:
    """All of Redis, keys and values, as it writes them down."""
    redis.config_set("rdbcompression", "no")
    return b"".join(key + (redis.dump(key) or b"") for key in redis.scan_iter())


def test_no_secret_shows(
    guarded: str,
    snapshot_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = make_settings(guarded, snapshot_folder, tmp_path / "service", auth="on")

    async def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    with syncredis.from_url(guarded) as redis:
        token = add_key(redis, Keys(settings.key_prefix), "serve", "feedback", "admin", rate=1e4, burst=1_000)
        limited = add_key(redis, Keys(settings.key_prefix), "serve", rate=1e-3)
        with serving(settings) as client:
            answers = planted(client, token)
            answers += [client.post("/recommend", json={"user_id": "ann"}, headers=bearer(limited)) for _ in range(2)]
            redis.rename(Keys(settings.key_prefix).live, "kept")
            redis.hset(Keys(settings.key_prefix).live, "not", "a string")
            answers.append(client.get("/policies", headers=bearer(token)))
            redis.rename("kept", Keys(settings.key_prefix).live)
            metrics = client.get("/metrics", headers=bearer(token))
            monkeypatch.setattr(fast_path, "recommend", bug)
            answers.append(client.post("/recommend", json={"user_id": "ann"}, headers=bearer(token)))
        stored = everything(redis)
    assert {answer.status_code for answer in answers} >= {200, 202, 401, 404, 422, 429, 500, 503}
    assert metrics.status_code == 200 and b"sha256" in stored
    # What the test's own client says of its requests is not the service's log.
    records = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    logs = "\n".join(map(logging.Formatter().format, records))
    assert "a bug" in logs and "RuntimeError" in logs
    told = [logs, metrics.text, repr(settings), *(f"{answer.headers}{answer.text}" for answer in answers)]
    secrets = [PASSWORD, WRONG, *(given.split("_", 2)[2] for given in (token, limited))]
    for secret in secrets:
        assert not [line for text in told for line in text.splitlines() if secret in line]
        assert secret.encode() not in stored
        assert secret.encode() not in b"".join(path.read_bytes() for path in settings.data_dir.rglob("*.json"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_do_not_show_the_password(guarded: str, snapshot_folder: Path, tmp_path: Path) -> None:
    port = free_port()
    variables = environment(IALP_DATA_DIR=str(tmp_path / "data"), REDIS_URL=guarded, IALP_AUTH="on")
    command = [sys.executable, "-m", "service", "dev", "--snapshot", str(snapshot_folder), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        process = subprocess.Popen(command, env=variables, stderr=log, stdout=log)
        try:
            until(lambda: ready(client), "readiness")
            family = [process.pid, *children(process.pid)]
            titles = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family)
            create = [sys.executable, "-m", "service", "keys", "create", "--name", "n", "--scopes", "metrics"]
            token = subprocess.run(create, env=variables, check=True, capture_output=True, text=True).stdout.strip()
            until(lambda: client.get(f"/metrics?key={token}", headers=bearer(token)).status_code == 200, "the new key")
        finally:
            process.terminate()
            process.wait(60)
    assert len(family) == 3 and titles.count(b"service") >= 3
    said = titles + (tmp_path / "log").read_bytes()
    assert PASSWORD.encode() not in said and token.split("_", 2)[2].encode() not in said
