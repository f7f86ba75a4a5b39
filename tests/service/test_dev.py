"""`python -m service dev`: starts everything, stops everything, and leaves nothing behind when it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as syncredis

from service.runtime import embedded
from tests.service.service_examples import make_snapshot, recommend, respond, until

pytestmark = pytest.mark.exclusive


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(**values: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("IALP_") and k != "REDIS_URL"}
    return inherited | {"OMP_NUM_THREADS": "1"} | values


@contextlib.contextmanager
def dev(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """The command, ready to serve."""
    port = free_port()
    arguments = [sys.executable, "-m", "service", "dev", "--snapshot", str(make_snapshot(folder / "snapshot"))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*arguments, "--port", str(port)],
            env=environment(IALP_DATA_DIR=str(folder / "data")),
            stderr=log,
            stdout=log,
        )
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            try:
                until(lambda: ready(client), "readiness")
                yield process, client
            finally:
                process.kill()
                process.wait()


def ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/readyz").status_code == 200
    return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_serves_and_stops_cleanly(tmp_path: Path) -> None:
    with dev(tmp_path) as (process, client):
        slate = recommend(client, "ann", k=2)
        sent = {"event_id": "e", "user_id": "ann", "item_id": slate["items"][0]["item_id"], "type": "click"}
        assert respond(client, sent)["accepted"] == 1
        family = children(process.pid)
        assert len(family) == 3, "server, API and worker"
        until(lambda: "ialp_stream_pending 0.0" in client.get("/metrics").text, "the worker at the end of the log")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
        assert not any(alive(pid) for pid in family)
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said and "no API keys are needed" in said


@pytest.mark.skipif(sys.platform != "linux", reason="children die with their parent on Linux only")
def test_api_and_worker_die_with_it(tmp_path: Path) -> None:
    with dev(tmp_path) as (process, _):
        family = children(process.pid)
        process.kill()
        process.wait()
        server = syncredis.from_url(f"unix://{embedded._socket_path(tmp_path / 'data' / 'redis')}")
        server_pid = server.info("server")["process_id"]
        until(lambda: [pid for pid in family if alive(pid)] == [server_pid], "the end of API and worker")
        server.shutdown(nosave=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"IALP_CONTROL_SHARE": "2"}, "setting IALP_CONTROL_SHARE: Input should be less than or equal to 1"),
        ({"REDIS_URL": "http://x"}, "setting REDIS_URL: must start with redis://"),
        ({"REDIS_URL": "redis://:s3cret/word@host:1"}, "setting REDIS_URL: is not a valid URL"),
        ({"IALP_REWARDS": "{"}, "setting IALP_REWARDS: is not valid JSON"),
        ({"IALP_REWARDS": '{"click": NaN}'}, "setting IALP_REWARDS[click]: "),
        ({"IALP_LEARNER": "dqn"}, "setting IALP_LEARNER: "),
        ({"IALP_LEARNER_CONFIG": '{"speed": 1}'}, "setting IALP_LEARNER_CONFIG: unknown hyper-parameter speed"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_settings_are_one_line(values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from service.__main__ import app

    for name in [name for name in os.environ if name.startswith("IALP_")]:
        monkeypatch.delenv(name)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["worker"])
    assert result.exit_code == 2, result.output
    (line,) = result.output.strip().splitlines()
    assert line.startswith("error: ") and message in line and "s3cret" not in line
