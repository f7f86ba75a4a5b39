"""What a connection may cost: slow and oversized heads and bodies, bombs, and ten thousand who only hold on."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from service.contract.schemas import RecommendRequest
from service.settings import Settings
from tests.service.service_examples import api_process, problem_of, serving_http

pytestmark = pytest.mark.exclusive

HEAD = b"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
PROBLEM = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}


@pytest.fixture(scope="module")
def hasty(redis_url: str, snapshot_folder: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """An API that waits a fifth of a second for a head, and for a body."""
    values = {"redis_url": redis_url, "key_prefix": "test:hasty", "snapshot": snapshot_folder}
    limits = {"header_timeout_s": 0.2, "body_timeout_s": 0.2}
    with serving_http(
        Settings.model_validate({"auth": "off", **values, **limits, "data_dir": tmp_path_factory.mktemp("hasty")})
    ) as client:
        yield client


@pytest.fixture(scope="module")
def patient(
    redis_url: str, snapshot_folder: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """An API that closes nothing for being slow, so that only sizes count."""
    values = {"redis_url": redis_url, "key_prefix": "test:patient", "snapshot": snapshot_folder}
    limits = {"header_timeout_s": 600, "body_timeout_s": 600}
    folder = tmp_path_factory.mktemp("patient")
    with serving_http(Settings.model_validate({"auth": "off", **values, **limits, "data_dir": folder})) as client:
        yield client


def dial(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=20)


def to_the_end(connection: socket.socket) -> bytes:
    """All that the server says until it closes; it may also have closed on what we still sent."""
    received = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while data := connection.recv(65536):
            received += data
    return received


def talk_raw(client: httpx.Client, data: bytes) -> bytes:
    """What comes back for `data` until the server closes."""
    with dial(client) as connection:
        connection.sendall(data)
        return to_the_end(connection)


def pour(client: httpx.Client, start: bytes, more: bytes) -> tuple[int, bytes]:
    """Send `more` again and again until the server has enough; how many bytes it took, and what it said."""
    with dial(client) as connection:
        connection.sendall(start)
        sent = 0
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while sent < 50_000_000:
                connection.sendall(more)
                sent += len(more)
        return sent, to_the_end(connection)


def refused(received: bytes, status: int, code: str) -> None:
    """The last thing said is a whole problem document."""
    head, _, body = received.rpartition(b"\r\n\r\n")
    head = head[head.rindex(b"HTTP/1.1 ") :]
    assert head.startswith(b"HTTP/1.1 %d " % status), received[:300]
    assert b"content-type: application/problem+json\r\n" in head + b"\r\n"
    assert b"connection: close" in head.lower()
    document = json.loads(body)
    assert set(document) == PROBLEM
    assert (document["status"], document["code"]) == (status, code)
    assert f"x-request-id: {document['request_id']}".encode() in head


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"G",
        b"\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n",
        GET + b"GET /hea",
        GET + b"\r\n",
        GET * 3 + b"G",
    ],
)
def test_a_head_that_is_not_whole_in_time_ends_the_connection(hasty: httpx.Client, begun: bytes) -> None:
    with dial(hasty) as connection:
        connection.sendall(begun)
        received = to_the_end(connection)
    assert received.count(b"HTTP/1.1 200 OK") == begun.count(GET)


def drip(client: httpx.Client, start: bytes, drop: bytes) -> bytes:
    """Send a drop every twentieth of a second; what the server says until it closes, which it must."""
    received = b""
    with dial(client) as connection:
        connection.sendall(start)
        connection.settimeout(0.05)
        for _ in range(400):
            try:
                connection.sendall(drop)
                data = connection.recv(65536)
            except TimeoutError:
                continue
            except (ConnectionResetError, BrokenPipeError):
                return received
            if not data:
                return received
            received += data
    pytest.fail("the connection is still open")


@pytest.mark.parametrize("start", [GET[:-2], GET + GET[:-2]])
def test_a_head_in_drops_gets_no_more_time(hasty: httpx.Client, start: bytes) -> None:
    assert drip(hasty, start, b"x: y\r\n").count(b"HTTP/1.1 ") == start.count(GET)


def test_line_breaks_are_no_head(hasty: httpx.Client) -> None:
    assert drip(hasty, GET, b"\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("length", [b"content-length: 100\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"])
@pytest.mark.parametrize("path", [b"/recommend", b"/feedback", b"/items:batch"])
def test_a_body_in_drops_gets_408(hasty: httpx.Client, path: bytes, length: bytes) -> None:
    drop = b"1\r\n \r\n" if b"chunked" in length else b" "
    refused(drip(hasty, HEAD.replace(b"/recommend", path) + length, drop), 408, "body_timeout")


def test_a_body_that_nobody_reads_gets_no_more_time(hasty: httpx.Client) -> None:
    received = drip(hasty, HEAD.replace(b"/recommend", b"/nowhere") + b"content-length: 10000\r\n\r\n", b" ")
    assert received.startswith(b"HTTP/1.1 404 ")


LARGE_HEADS = {
    "one header": HEAD + b"x: " + b"y" * 20_000 + b"\r\n\r\n",
    "one header of 200 kB": HEAD + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    "a name": HEAD + b"x" * 20_000 + b": y\r\n\r\n",
    "a path": b"GET /users/" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a query": b"GET /healthz?" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "many headers": HEAD + b"a: b\r\n" * 200 + b"\r\n",
    "many names": HEAD + b"".join(b"h%d: \r\n" % n for n in range(50_000)) + b"\r\n",
}


@pytest.mark.parametrize("name", LARGE_HEADS)
def test_a_large_head_gets_431(patient: httpx.Client, name: str) -> None:
    refused(talk_raw(patient, LARGE_HEADS[name]), 431, "head_too_large")
    received = talk_raw(patient, GET + LARGE_HEADS[name])
    assert received.startswith(b"HTTP/1.1 200 "), "what came whole before is answered"


def test_a_head_within_the_limits_is_served(patient: httpx.Client) -> None:
    headers = {f"x-{n}": "y" * 150 for n in range(90)}
    assert patient.get("/healthz", headers=headers).status_code == 200


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "header": (HEAD + b"x: ", b"y" * 1000),
    "headers": (HEAD, b"x: y\r\n"),
    "path": (b"GET /", b"x" * 1000),
    "chunk extension": (CHUNKED + b"1;", b"x" * 1000),
    "trailer": (CHUNKED + b"0\r\nx: ", b"y" * 1000),
    "trailers": (CHUNKED + b"0\r\n", b"x: y\r\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_gets_431(patient: httpx.Client, name: str) -> None:
    sent, received = pour(patient, *ENDLESS[name])
    assert sent < 50_000_000
    if received:  # a reset may overtake it
        refused(received, 431, "head_too_large")


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", CHUNKED + b"zz\r\n", GET + b"\0\0\r\n"]
)
def test_what_is_not_http_gets_400(patient: httpx.Client, data: bytes) -> None:
    received = talk_raw(patient, data)
    if data.startswith(GET):
        assert received.count(b"HTTP/1.1 200 OK") == 1
    else:
        refused(received, 400, "malformed_request")


def repeated(text: str, size: int = 990_000) -> str:
    """`text` again and again, about `size` characters."""
    return text * (size // len(text))


BOMBS = {
    "open brackets": repeated("["),
    "open objects": repeated('{"a":'),
    "nested arrays": "[" * 490_000 + "]" * 490_000,
    "nested objects": '{"a":' * 150_000 + "1" + "}" * 150_000,
    "nested in a field": '{"user_id": "u", "context": ' + "[" * 490_000 + "]" * 490_000 + "}",
    "nested 900 deep in a field": '{"user_id": "u", "context": {"a": ' + "[" * 900 + "]" * 900 + "}}",
    "a number of a million digits": '{"user_id": "u", "k": ' + repeated("9") + "}",
    "a fraction of a million digits": '{"user_id": "u", "k": 0.' + repeated("1") + "}",
    "a huge exponent": '{"user_id": "u", "k": 1e' + repeated("9") + "}",
    "many huge exponents": "[" + repeated("1e999999999,") + "1]",
    "a key a hundred thousand times": "{" + repeated('"a":1,', 600_000) + '"a":1}',
    "a hundred thousand keys": "{" + ",".join(f'"{n}":1' for n in range(80_000)) + "}",
    "a hundred thousand facts": '{"user_id": "u", "context": {' + ",".join(f'"{n}":[]' for n in range(80_000)) + "}}",
    "thousands of unknown fields": '{"items": ['
    + ",".join(['{"item_id": "a", "text": "t", ' + ",".join(f'"{n}":1' for n in range(100)) + "}"] * 1000)
    + "]}",
    "a list for a key": '{"user_id": ' + "[" + repeated("1,") + "1]}",
    "escapes": '{"user_id": "' + repeated("\\u0000") + '"}',
}
TARGETS = [("POST", "/recommend"), ("POST", "/feedback"), ("PUT", "/items/i"), ("POST", "/items:batch")]


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize(("method", "path"), TARGETS)
def test_bombs_are_refused(patient: httpx.Client, method: str, path: str, name: str) -> None:
    headers = {"content-type": "application/json"}
    answer = patient.request(method, path, content=BOMBS[name].encode(), headers=headers)
    assert len(answer.content) < 10_000
    problem_of(answer, 400, 413, 422)


@pytest.mark.parametrize("name", ["a hundred thousand keys", "a hundred thousand facts"])
def test_not_every_wrong_field_is_an_error_to_tell(name: str) -> None:
    """Telling takes seconds in which nobody else is served."""
    with pytest.raises(ValidationError) as caught:
        RecommendRequest.model_validate(json.loads(BOMBS[name]))
    assert caught.value.error_count() < 10


def test_a_key_that_comes_twice_counts_as_it_came_last(patient: httpx.Client) -> None:
    """As in every common parser, in this process's only one: nobody before it decides by the other value."""
    headers = {"content-type": "application/json"}
    answer = patient.post("/recommend", content=b'{"user_id": "u", "k": 1, "k": 2}', headers=headers)
    assert len(answer.json()["items"]) == 2
    problem_of(patient.post("/recommend", content=b'{"user_id": "u", "k": 2, "k": 0}', headers=headers), 422)


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_stays_bounded_under_bombs(settings: Settings, tmp_path: Path) -> None:
    headers = {"content-type": "application/json"}
    with api_process(settings, tmp_path / "log") as (process, client):

        def bombard() -> None:
            for bomb in BOMBS.values():
                problem_of(client.post("/recommend", content=bomb.encode(), headers=headers), 400, 413, 422)
            for start, more in ENDLESS.values():
                pour(client, start, more)
            # Chunked, so that nothing announces its size: 50 MB, of which one is read.
            pour(client, CHUNKED, b"186a0\r\n" + b" " * 100_000 + b"\r\n")
            for head in LARGE_HEADS.values():
                talk_raw(client, head)

        bombard()
        before = resident_mb(process.pid)
        for _ in range(5):
            bombard()
        assert resident_mb(process.pid) - before < 100
        assert resident_mb(process.pid, "VmHWM") - before < 200, "nor in between"
        assert client.get("/readyz").status_code == 200
        assert " ERROR " not in (tmp_path / "log").read_text()


def test_what_is_refused_before_routing_is_documented(patient: httpx.Client) -> None:
    operations = [
        operation for path in patient.get("/openapi.json").json()["paths"].values() for operation in path.values()
    ]
    assert len(operations) > 10
    for operation in operations:
        assert {"400", "408", "413", "415", "422", "431", "503"} <= set(operation["responses"])
