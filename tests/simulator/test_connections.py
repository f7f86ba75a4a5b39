"""The lean transport against a raw socket server that answers what a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest

from simulator.load.connections import KeptConnections

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Script = list[bytes | None]  # what each request gets; None: the connection is closed instead


class Scripted:
    """Requests as they came, and how many connections they came on."""

    def __init__(self, script: Script) -> None:
        self.script, self.requests = script, list[bytes]()
        self.connections, self.ended = 0, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError):
            await self.talk(reader, writer)
            writer.close()
            await writer.wait_closed()
        self.ended += 1

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-l")), 0)
            self.requests.append(head + await reader.readexactly(length))
            answer = self.script.pop(0)
            if answer is None:
                break
            writer.write(answer)


@contextlib.asynccontextmanager
async def talking(script: Script) -> AsyncIterator[tuple[httpx.AsyncClient, Scripted]]:
    scripted = Scripted(script)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", transport=KeptConnections(), timeout=0.2, trust_env=False
    ) as client:
        yield client, scripted
    while scripted.ended < scripted.connections:
        await asyncio.sleep(0)
    server.close()
    await server.wait_closed()


async def test_requests_share_a_connection_and_arrive_whole() -> None:
    async with talking([OK, b"HTTP/1.1 404 Not Found\r\nX-A: b:c\r\nContent-Length: 0\r\n\r\n"]) as (client, service):
        first = await client.post("/a?b=%20", content=b"body")
        second = await client.get("/c")
    assert (first.status_code, first.text, second.status_code, second.headers["x-a"]) == (200, "ok", 404, "b:c")
    assert service.connections == 1
    assert service.requests[0].startswith(b"POST /a?b=%20 HTTP/1.1\r\n") and service.requests[0].endswith(
        b"\r\n\r\nbody"
    )


async def test_at_once_means_a_connection_each() -> None:
    async with talking([OK] * 3) as (client, service):
        answers = await asyncio.gather(*(client.get("/") for _ in range(3)))
    assert [answer.text for answer in answers] == ["ok"] * 3 and service.connections == 3


@pytest.mark.parametrize(
    "closing",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_a_connection_that_ends_is_not_kept(closing: bytes) -> None:
    async with talking([closing, OK]) as (client, service):
        await client.get("/")
        assert (await client.get("/")).text == "ok"
    assert service.connections == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, httpx.NetworkError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", httpx.ReadTimeout),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", httpx.RemoteProtocolError),
        (b"what\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
async def test_what_goes_wrong_is_an_error_of_httpx_and_the_next_call_starts_afresh(
    answer: bytes | None, error: type[httpx.TransportError]
) -> None:
    async with talking([answer, OK]) as (client, service):
        with pytest.raises(error):
            await client.get("/")
        assert (await client.get("/")).text == "ok"
    assert service.connections == 2


async def test_a_cancelled_call_leaves_no_answer_to_the_next() -> None:
    async with talking([b"HTTP/1.1 200 OK\r\n", OK]) as (client, service):
        call = asyncio.create_task(client.get("/"))
        while not service.requests:
            await asyncio.sleep(0)
        call.cancel()
        assert (await client.get("/")).text == "ok"
    assert service.connections == 2


async def test_nobody_listens() -> None:
    async with httpx.AsyncClient(transport=KeptConnections(), trust_env=False) as client:
        with pytest.raises(httpx.NetworkError):
            await client.get("http://127.0.0.1:1/")
