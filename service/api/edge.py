"""The outermost layer: request ids, limits that cost no memory, and the latency metric (plain ASGI)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from http import HTTPStatus
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
            problem = self._refusal(scope)
            if problem is None:
                await self._app(scope, self._counted(receive), send_with_id)
            else:
                await _answer(problem, scope, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            duration = time.perf_counter() - started
            method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
            self._metrics.requests.labels(method, route, str(status)).observe(duration)
            if route == "/recommend":
                self._metrics.recent.append((started + duration, duration))

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return Problem(HTTPStatus.BAD_REQUEST, "bad_request", "Content-Length is not a number.")
        if int(length) > self._max_body:
            return self._too_large()
        has_body = int(length) > 0 or b"transfer-encoding" in headers
        content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        is_json = content_type == b"application/json" or (
            content_type.startswith(b"application/") and content_type.endswith(b"+json")
        )
        if has_body and not is_json:
            detail = "Send the body as application/json."
            return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
        return None

    def _too_large(self) -> Problem:
        detail = f"The body is larger than {self._max_body} bytes."
        # The rest of the body is not read, so the connection is of no more use.
        headers = {"Connection": "close"}
        return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail, headers=headers)

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
                raise self._too_large()
            return message

        return counted


async def _answer(problem: Problem, scope: Scope, send: Send) -> None:
    body = json.dumps(document(problem, scope["path"], scope["request_id"])).encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        _CLOSE,  # the rest of the body is not read
    ]
    await send({"type": "http.response.start", "status": int(problem.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
