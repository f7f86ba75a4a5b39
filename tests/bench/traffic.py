"""Load on one server of this machine: wrk in a closed loop, and a client of our own at a rate that waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tests.observability import debian

CONNECTIONS = 32
_UNPACKED = Path("runs/bench/wrk")
_PACKAGES = ["wrk", "libluajit2-5.1-2"]


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, in ms."""
    values = np.asarray(milliseconds)
    named = {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
    return {name: round(value, 3) for name, value in (named | {"max": float(values.max())}).items()}


@dataclass(frozen=True)
class Closed:
    """What a closed loop showed."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int  # answers other than 2xx, and connections that broke


def closed_loop(
    url: str, seconds: int, n_users: int, key: str | None, core: int, connections: int = CONNECTIONS
) -> Closed:
    """wrk with so many connections on `core`, each asking for a random user's slate as soon as it has an answer."""
    wrk = debian.program("wrk", _PACKAGES, _UNPACKED)
    authorization = f'wrk.headers["Authorization"] = "Bearer {key}"' if key else ""
    script = f"""
math.randomseed(7)
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
{authorization}
function request()
  return wrk.format(nil, nil, nil, '{{"user_id":"u' .. math.random(0, {n_users - 1}) .. '","k":10}}')
end
function done(summary, latency)
  local e = summary.errors
  print("RESULT", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status + e.connect + e.read + e.write + e.timeout)
end
"""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["taskset", "--cpu-list", str(core), wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name]
        done = subprocess.run(
            [*command, url], env=debian.libraries(_UNPACKED), check=True, capture_output=True, text=True
        )
    found = re.search(r"RESULT\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)", done.stdout)
    if found is None:
        raise RuntimeError(f"wrk said nothing of use:\n{done.stdout}")
    requests, duration_us, p50_us, p99_us, failed = map(float, found.groups())
    return Closed(requests / duration_us * 1e6, p50_us / 1e3, p99_us / 1e3, int(failed))


@dataclass(frozen=True)
class Answered:
    """One request of an open loop."""

    due_s: float  # when it was meant to be sent, by time.monotonic
    done_s: float
    status: int
    body: bytes

    @property
    def milliseconds(self) -> float:
        """From when it was meant to be sent."""
        return 1e3 * (self.done_s - self.due_s)


class _Connection(asyncio.Protocol):
    """A kept connection that has one request at a time."""

    def __init__(self) -> None:
        self._data = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, b""))
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if len(body) >= length and self._answer is not None:
            answer, self._answer, self._data = self._answer, None, b""
            if not answer.done():
                answer.set_result((int(head[9:12]), body))

    @property
    def is_closed(self) -> bool:
        """Whether the other side has closed it."""
        return self._transport is None or self._transport.is_closing()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status, 0 if the connection broke, and body."""
        if self._transport is None:
            return 0, b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()


class OpenLoop:
    """Requests at the times they are due, over up to `connections`; waiting for a free one is part of the latency."""

    def __init__(self, url: str, key: str | None = None, connections: int = 256) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = f"Host: {parts.netloc}\r\nContent-Type: application/json\r\n".encode()
        if key:
            self._head += f"Authorization: Bearer {key}\r\n".encode()
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> OpenLoop:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    async def post(self, path: str, body: object, due_s: float | None = None) -> Answered:
        """One request, meant to be sent now or at `due_s`."""
        due_s = time.monotonic() if due_s is None else due_s
        content = json.dumps(body).encode()
        head = b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (path.encode(), self._head, len(content))
        async with self._slots:
            status, answer = await self._send(head + content)
        return Answered(due_s, time.monotonic(), status, answer)

    async def _send(self, request: bytes) -> tuple[int, bytes]:
        """Over the connection that was used last, or a new one if the server has closed it for being idle."""
        while self._idle and self._idle[-1].is_closed:
            self._idle.pop()
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        status, answer = await connection.ask(request)
        if status:
            self._idle.append(connection)
        return status, answer


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Times of a Poisson process, in seconds from its start."""
    rng, at = np.random.default_rng(seed), 0.0
    while (at := at + float(rng.exponential(1 / rate))) < seconds:
        yield at


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """A client that stops for a tenth of a second to collect its garbage would be taken for a slow server."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


async def open_loop(url: str, rate: float, seconds: float, n_users: int, key: str | None, seed: int) -> list[Answered]:
    """Slates for random users, `rate` a second."""
    rng = np.random.default_rng([seed, 1])
    with no_collections():
        async with OpenLoop(url, key) as client, asyncio.TaskGroup() as group:
            began, tasks = time.monotonic(), []
            for at in arrivals(rate, seconds, seed):
                if (wait_s := began + at - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                body = {"user_id": f"u{rng.integers(n_users)}", "k": 10}
                tasks.append(group.create_task(client.post("/recommend", body, began + at)))
        return [task.result() for task in tasks]
