"""The application as it stands towards browsers and proxies: pages of other origins (CORS), and a path prefix."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import MEDIA_TYPE, Problem, document
from service.api.openapi import SCHEMES, DocumentedAPI
from service.settings import Settings

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_SENT = ("Authorization", "Content-Encoding", "Content-Type", *(s["name"] for s in SCHEMES.values() if "name" in s))
_READ = ("X-Request-Id", "Retry-After", "Accept-Encoding")


class Application(DocumentedAPI):
    """Answers pages of the origins in the settings, and finds itself behind a prefix that a proxy strips or leaves."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._origins, self._prefix = settings.cors_origins, settings.root_path

    def build_middleware_stack(self) -> ASGIApp:
        """Put CORS around everything, even around the answer to an error of our own."""
        stack = super().build_middleware_stack()
        return _Cors(stack, self._origins, _METHODS, _SENT, expose_headers=_READ) if self._origins else stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; below here its path begins with the `root_path`, as ASGI has it."""
        if self._prefix and scope["type"] == "http":
            scope = {**scope, "root_path": self._prefix}
            if self._is_stripped(scope):
                scope["path"] = self._prefix + scope["path"]
                scope["raw_path"] = self._prefix.encode() + (scope.get("raw_path") or b"")
            elif scope["path"] == self._prefix:
                scope["path"] += "/"
        await super().__call__(scope, receive, send)

    def _is_stripped(self, scope: Scope) -> bool:
        """Check that a proxy took the prefix away: the path does not have it, or is with it one of our own."""
        if not f"{scope['path']}/".startswith(f"{self._prefix}/"):
            return True
        as_it_is = {**scope, "root_path": ""}
        return any(route.matches(as_it_is)[0] is not Match.NONE for route in self.routes)


class _Cors(CORSMiddleware):
    """Starlette's, but what it refuses is a problem document, as everywhere."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks whether a page may send a request."""
        response = super().preflight_response(request_headers)
        request_id = uuid4().hex
        response.headers["X-Request-Id"] = request_id
        if response.status_code == HTTPStatus.OK:
            return response
        detail = f"{bytes(response.body).decode()}. IALP_CORS_ORIGINS names the origins whose pages may send requests."
        problem = Problem(HTTPStatus.BAD_REQUEST, "cross_origin", detail)
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return JSONResponse(document(problem, "", request_id), problem.status_code, kept, MEDIA_TYPE)
