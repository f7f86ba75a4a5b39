"""SIGTERM: the API says that it stops, serves on for those who have not heard, finishes what has begun, and ends."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
import redis as syncredis

from service.settings import Settings
from service.store.events import Feedback
from tests.service.service_examples import api_process, logged, recommend, until

pytestmark = pytest.mark.exclusive

BODY = b'{"user_id": "ann"}'
HEAD = (
    b"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(BODY)
)


def accepts(client: httpx.Client) -> bool:
    try:
        socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20).close()
    except ConnectionRefusedError:
        return False
    return True


def test_it_says_so_and_serves_on_until_a_second_signal(settings: Settings, tmp_path: Path) -> None:
    draining = settings.model_copy(update={"drain_s": 600.0})
    with api_process(draining, tmp_path / "log") as (process, client):
        assert "connection" not in client.post("/recommend", json={"user_id": "ann"}).headers
        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503, "the announcement")
        ready = client.get("/readyz")
        assert (ready.json()["status"], ready.json()["reasons"]) == ("unavailable", ["stopping"])
        answers = [client.get("/healthz"), client.post("/recommend", json={"user_id": "ann"}), client.get("/nowhere")]
        answers += [client.post("/recommend", json={}), client.post("/recommend", content=b"x")]
        assert [answer.status_code for answer in (ready, *answers)] == [503, 200, 200, 404, 422, 415]
        assert [answer.headers["connection"] for answer in (ready, *answers)] == ["close"] * 6
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0(settings: Settings, tmp_path: Path, number: signal.Signals) -> None:
    draining = settings.model_copy(update={"drain_s": 0.2})
    with api_process(draining, tmp_path / "log") as (process, _):
        process.send_signal(number)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_what_has_begun_is_finished(settings: Settings, tmp_path: Path) -> None:
    with (
        api_process(settings, tmp_path / "log") as (process, client),
        socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection,
    ):
        connection.sendall(HEAD + BODY[:5])
        until(lambda: recommend(client, "bob", k=1)["warnings"] == [], "the head's arrival")
        process.send_signal(signal.SIGTERM)
        until(lambda: not accepts(client), "the end of accepting")
        until(lambda: "Waiting for connections to close" in (tmp_path / "log").read_text(), "its patience")
        connection.sendall(BODY[5:])
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert received.startswith(b"HTTP/1.1 200 ") and b'"recommendation_id"' in received
        assert process.wait(30) == 0


def test_what_does_not_finish_is_not_waited_for_long(settings: Settings, tmp_path: Path) -> None:
    patient = settings.model_copy(update={"body_timeout_s": 600.0, "stop_timeout_s": 1})
    with (
        api_process(patient, tmp_path / "log") as (process, client),
        socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20) as connection,
    ):
        connection.sendall(HEAD + BODY[:5])
        recommend(client, "bob", k=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


class Follower:
    """What stands before several API processes: asks each twenty times a second whether it is ready."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.ready: list[str] = []
        self.done = threading.Event()
        self.taken = 0
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def follow(self) -> None:
        with httpx.Client(timeout=5) as client:
            while not self.done.wait(0.05):
                self.ready = [url for url in list(self.known) if is_ready(client, url)]

    def send(self, seed: int) -> None:
        """Slates and clicks, on kept-alive connections, to whoever is ready."""
        rng = random.Random(seed)
        with httpx.Client(timeout=30) as client:
            n = 0
            while not self.done.is_set():
                n += 1
                user = f"user-{seed}-{n}"
                click = {"event_id": user, "user_id": user, "item_id": "film-1", "type": "click"}
                for path, body in (("/recommend", {"user_id": user, "k": 3}), ("/feedback", click)):
                    try:
                        answer = client.post(f"{rng.choice(self.ready)}{path}", json=body)
                        outcome = "" if answer.is_success else f"{path}: {answer.status_code} {answer.text}"
                    except httpx.HTTPError as error:
                        outcome = f"{path}: {error!r}"
                    with self._lock:
                        self.taken += path == "/feedback" and not outcome
                        self.failures += [outcome] if outcome else []


def is_ready(client: httpx.Client, url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get(f"{url}/readyz").status_code == 200
    return False


def test_a_rolling_restart_loses_no_request(settings: Settings, redis: syncredis.Redis, tmp_path: Path) -> None:
    draining = settings.model_copy(update={"drain_s": 1.0})
    follower = Follower()
    threads = [threading.Thread(target=follower.follow)]
    threads += [threading.Thread(target=follower.send, args=(seed,)) for seed in range(4)]

    with contextlib.ExitStack() as stack:

        def start(name: str) -> subprocess.Popen[bytes]:
            process, client = stack.enter_context(api_process(draining, tmp_path / name))
            url = str(client.base_url)
            follower.known.append(url)
            if follower.ready:
                until(lambda: url in follower.ready, f"{name} in service")
            return process

        def some_traffic() -> None:
            before = follower.taken
            until(lambda: follower.taken >= before + 100 or bool(follower.failures), "traffic")

        processes = [start("one"), start("two")]
        follower.ready = list(follower.known)
        for thread in threads:
            thread.start()
        try:
            some_traffic()
            for n, old in enumerate(processes):
                old.send_signal(signal.SIGTERM)
                assert old.wait(30) == 0
                follower.known.pop(0)
                start(f"restarted-{n}")
                some_traffic()
        finally:
            follower.done.set()
            for thread in threads:
                thread.join()
    assert follower.failures == []
    assert sum(isinstance(event, Feedback) for event in logged(redis, settings)) == follower.taken >= 300
