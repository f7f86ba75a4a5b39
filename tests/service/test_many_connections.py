"""Ten thousand connections that only hold on starve nobody."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.api import server as http_server
from service.settings import Settings
from tests.service.service_examples import Server, api_process, recommend, until, until_ready
from tests.service.test_connections import GET, dial, talk_raw

pytestmark = pytest.mark.exclusive


HOLDERS = """
import resource, socket, sys, threading
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(int(sys.argv[2]))]
for connection in held[::2]:
    connection.sendall(b"GET /healthz HTTP/1.1\\r\\nhost: localhost\\r\\nx: ")
print("held", flush=True)
drop = threading.Event()
while not drop.wait(0.5):
    for connection in held[:400:2]:
        connection.sendall(b"y")
"""


@pytest.fixture
def few_files() -> Iterator[None]:
    """Processes that are started now may at first open 1,024 files, as is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.usefixtures("few_files")
def test_ten_thousand_who_only_hold_on_starve_nobody(settings: Settings, tmp_path: Path) -> None:
    """Half of them have begun a head, and some send a byte of it now and then."""
    held = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500)
    patient = settings.model_copy(update={"header_timeout_s": 600.0})
    with api_process(patient, tmp_path / "log") as (process, client):
        arguments = [sys.executable, "-c", HOLDERS, str(client.base_url.port), str(held)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as holders:
            try:
                assert holders.stdout is not None and holders.stdout.readline() == b"held\n"
                until(lambda: open_files(process.pid) > held, "the connections at the server")
                with httpx.Client(base_url=client.base_url, timeout=30) as newcomer:
                    for n in range(300):
                        assert len(recommend(newcomer, f"u{n}", k=3)["items"]) == 3
                assert open_files(process.pid) > held, "they still hold on"
            finally:
                holders.kill()
        until(lambda: open_files(process.pid) < 200, "their end")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_more_connections_than_there_are_files_are_turned_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open stays in service, and Redis and snapshots still have files to open."""

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(http_server, "_SPARE_FILES", soft - 5)
    with Server(settings) as client, contextlib.ExitStack() as stack:
        until_ready(client)
        for _ in range(4):
            connection = stack.enter_context(dial(client))
            connection.sendall(GET)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert talk_raw(client, GET) == b""
        assert client.get("/healthz").status_code == 200
