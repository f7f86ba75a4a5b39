"""GET /: the dashboard, static files and one stream of server-sent events.

The page needs no key; what it shows does. Nothing comes from elsewhere, and the page may load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from redis.exceptions import RedisError

from service.api.errors import Problem
from service.api.guard import holds_key, needs
from service.api.now import encode_moment, now
from service.api.state import Shared, State
from service.store import moments
from service.store.api_keys import Scope

_SCOPES: tuple[Scope, ...] = ("admin",)
router = APIRouter(include_in_schema=False)
guarded = APIRouter(include_in_schema=False, route_class=needs(*_SCOPES, without_redis=True))

_FOLDER = Path(__file__).parents[1] / "dashboard"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TICK_S = 1.0
_POINTS = 1_500  # of the history, when a page opens


@router.get("/")
async def page(request: Request) -> Response:
    """The page. Behind a prefix it names its base: a proxy may show it without a slash at the end."""
    prefix = request.scope.get("root_path", "")  # of the settings, which allow nothing in it that HTML would notice
    answer = _file("index.html")
    if prefix:
        base = b'<head>\n  <base href="%s/">' % prefix.encode()
        answer = Response(bytes(answer.body).replace(b"<head>", base, 1), media_type="text/html", headers=_HEADERS)
    return answer


@router.get("/dashboard/{name:path}")
async def file(name: str) -> Response:
    """A file that the page loads."""
    return _file(name)


@guarded.get("/dashboard/stream")
async def stream(request: Request, state: Shared) -> StreamingResponse:
    """`history` once, then `now` every second with the `moments` that came, until the process stops or the key ends."""
    return StreamingResponse(
        _events(request, state), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(request: Request, state: State) -> AsyncIterator[bytes]:
    last, first = "", True
    while not request.app.state.stopping and holds_key(state, request.scope["headers"], _SCOPES):
        try:
            came, last = await moments.read(state.redis, state.keys, last, _POINTS)
            if first or came:
                yield _event("history" if first else "moments", [encode_moment(moment) for moment in came])
            first = False
        except (RedisError, OSError):
            pass  # `now` says so
        yield _event("now", await now(state))
        await asyncio.sleep(_TICK_S)


def _event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def _file(name: str) -> Response:
    found = _FILES.get(name)
    if found is None:
        raise Problem(HTTPStatus.NOT_FOUND, "not_found", "There is no such file.")
    body, media_type = found
    return Response(body, media_type=media_type, headers=_HEADERS)


def _read() -> dict[str, tuple[bytes, str]]:
    return {
        path.relative_to(_FOLDER).as_posix(): (path.read_bytes(), _TYPES[path.suffix])
        for path in _FOLDER.rglob("*")
        if path.suffix in _TYPES
    }


_FILES = _read()
