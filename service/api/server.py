"""The HTTP server: what a connection may cost before it is a request, and how the process stops.

uvicorn bounds neither the size of a request's head nor the time that it takes; a client that sends one byte a minute
would hold its connection for ever.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from http import HTTPStatus
from types import FrameType
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.errors import MEDIA_TYPE, Problem, document
from service.settings import Settings

_MAX_HEADERS = 100
_SPARE_FILES = 256  # of the process's file limit: Redis, snapshots, the log
_MANY_FILES = 65_536  # where the system names no limit; some then refuse to set none


def raise_file_limit() -> None:
    """Let this process open as many files, connections among them, as the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MANY_FILES if hard == resource.RLIM_INFINITY else hard, hard))


def _max_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (_MANY_FILES if soft == resource.RLIM_INFINITY else soft) - _SPARE_FILES)


class _TooLarge(Exception):
    """Ends the parsing of a head."""


class _Config(uvicorn.Config):
    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            app,
            host=settings.host,
            port=settings.port,
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=settings.stop_timeout_s,
        )
        self.settings = settings
        self.max_connections = _max_connections()


class Connection(HttpToolsProtocol):
    """One client's connection: a head and a body have their time and size."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, _Config)
        self._settings, self._max_connections = config.settings, config.max_connections
        self._timer: asyncio.TimerHandle | None = None
        self._allowed_s: float | None = None  # for what is being received; None between a request and its answer
        self._head_bytes = 0
        self._unparsed_bytes = 0  # received since the parser last told of anything whole
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first head, unless too many connections do so already."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            transport.abort()
        else:
            self._enter(self._settings.header_timeout_s)
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._enter(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and see that the rest comes in time."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        # One header, or a chunk's extension, that does not end: the parser keeps it and says nothing.
        if self._unparsed_bytes > self._settings.max_header_bytes:
            self._refuse(self._head_too_large())
        elif self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_bytes = self._unparsed_bytes = 0
        self._allowed_s = self._settings.header_timeout_s  # a timer that runs already goes on

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the head, or of a chunked body's trailer."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        super().on_headers_complete()
        self._enter(self._settings.body_timeout_s)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        super().on_message_complete()
        self._enter(None)

    def send_400_response(self, msg: str) -> None:
        """The parser gave up."""
        malformed = Problem(HTTPStatus.BAD_REQUEST, "malformed_request", "This is not an HTTP request.")
        self._refuse(self._head_too_large() if self._too_large else malformed)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._settings.max_header_bytes or len(self.headers) >= _MAX_HEADERS:
            self._too_large = True
            raise _TooLarge

    def _enter(self, allowed_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._allowed_s, self._unparsed_bytes = None, allowed_s, 0

    def _start_timer(self) -> None:
        allowed_s = self._allowed_s
        if allowed_s is None and (self.cycle is None or self.cycle.response_complete):
            allowed_s = self._settings.header_timeout_s  # something came, if only a line break
        if allowed_s is not None:
            self._timer = self.loop.call_later(allowed_s, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        # At once, or after the answer in progress: a request that waits for its body gets 408 from Edge.
        self.shutdown()

    def _head_too_large(self) -> Problem:
        detail = f"The head is larger than {self._settings.max_header_bytes} bytes or has over {_MAX_HEADERS} headers."
        return Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", detail)

    def _refuse(self, problem: Problem) -> None:
        """Answer what is not yet a request and close; if one is in progress, answer that and no other."""
        self._enter(None)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started or not cycle.more_body:
                self.flow.pause_reading()
                self.shutdown()
                return
            cycle.disconnected = True  # what is wrong is this request's own body
            cycle.message_event.set()
        request_id = uuid4().hex
        body = json.dumps(document(problem, "", request_id)).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
        ]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[int(problem.status)] + lines + b"\r\n" + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Serves `app` and stops in order: first /readyz says so, then it stops accepting, then it waits for answers."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(_Config(app, settings))
        self._app, self._drain_s = app, settings.drain_s
        self._ends_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: stop in order, with exit code 0; a second one ends the process at once."""
        if self._ends_at is not None:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._app.state.stopping = True
        self._ends_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Check whether it is time to stop accepting connections; called ten times a second."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.should_exit = True
        return await super().on_tick(counter)
