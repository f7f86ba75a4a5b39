"""A reverse proxy that shows a service at a prefix."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class Stripping:
    """A proxy that shows a service at a prefix, and takes the prefix away or leaves it."""

    def __init__(self, app: ASGIApp, prefix: str, strips: bool) -> None:
        self._app, self._prefix, self._strips = app, prefix, strips

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not f"{scope['path']}/".startswith(f"{self._prefix}/"):
                await PlainTextResponse("no such site", 404)(scope, receive, send)
                return
            if self._strips:
                path = scope["path"].removeprefix(self._prefix) or "/"
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
