"""The outermost layer: request ids, limits that cost no memory, HEAD, and the latency metric (plain ASGI)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import bodies
from service.api.errors import MEDIA_TYPE, Problem, document
from service.api.metrics import Metrics
from service.runtime import process_log

log = logging.getLogger(__name__)


# Label values of the latency metric, as OpenTelemetry has it: a client cannot make up new ones.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


_CLOSE = (b"connection", b"close")


class Edge:
    """Refuses what is too large, too slow or not JSON before it is read, and times the rest."""

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int, body_timeout_s: float) -> None:
        self._app, self._metrics, self._max_body, self._body_timeout_s = app, metrics, max_body_bytes, body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of any kind; only HTTP is looked at."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = uuid4().hex
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        if method == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        process_log.request_id.set(request_id)  # uvicorn runs each request in a context of its own
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", request_id.encode())]
                if scope["app"].state.stopping and _CLOSE not in headers:  # the next request goes to another process
                    headers.append(_CLOSE)
                message["headers"] = headers
            await send(message)

        try:
            try:
                receive = self._read(dict(scope["headers"]), receive)
            except Problem as problem:
                await _answer(problem, scope, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            duration = time.perf_counter() - started
            self._metrics.requests.labels(method, route, str(status)).observe(duration)
            if route == "/recommend":
                self._metrics.recent.append((started + duration, duration))

    def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> Receive:
        """Return a `receive` that gives JSON in UTF-8, within limits.

        Raises:
            Problem: the head says that it cannot be.
        """
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise Problem(HTTPStatus.BAD_REQUEST, "bad_request", "Content-Length is not a number.")
        if int(length) > self._max_body:
            raise bodies.too_large(self._max_body)
        receive = self._counted(receive)
        if int(length) == 0 and b"transfer-encoding" not in headers:
            return receive
        content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if content_type != b"application/json" and not (
            content_type.startswith(b"application/") and content_type.endswith(b"+json")
        ):
            detail = "Send the body as application/json."
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        return bodies.plain(headers, receive, self._max_body)

    def _too_slow(self) -> Problem:
        detail = f"The body was not complete {self._body_timeout_s:g} s after its head."
        return Problem(HTTPStatus.REQUEST_TIMEOUT, "body_timeout", detail, headers={"Connection": "close"})

    def _counted(self, receive: Receive) -> Receive:
        total, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._body_timeout_s

        async def counted() -> Message:
            nonlocal total, whole
            if whole:  # what comes now is the client's going away, for which there is no hurry
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            total += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if total > self._max_body:
                raise bodies.too_large(self._max_body)
            return message

        return counted


async def _answer(problem: Problem, scope: Scope, send: Send) -> None:
    body = json.dumps(document(problem, scope["path"], scope["request_id"])).encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in (problem.headers or {}).items()),
    ]
    if _CLOSE not in headers:
        headers.append(_CLOSE)  # the rest of the body is not read
    await send({"type": "http.response.start", "status": int(problem.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _without_body(send: Send) -> Send:
    """Return a `send` for HEAD: the answer to a GET without its body, over as soon as a body would begin.

    A stream would never end by itself; that its answer is over looks to it as if the client had gone away.
    """
    ended = False

    async def send_head(message: Message) -> None:
        nonlocal ended
        if message["type"] == "http.response.body" and not ended:
            ended = True
            await send({"type": "http.response.body", "body": b""})
        elif message["type"] != "http.response.body":
            await send(message)

    return send_head
