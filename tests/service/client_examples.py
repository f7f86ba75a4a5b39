"""Both clients of the SDK, called alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from service.client import AsyncClient, Client

Call = Callable[..., Any]


class Both:
    """Either client, called alike."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self._kind, self._url, self._options = kind, url, options

    def __getattr__(self, name: str) -> Call:
        def call(*args: Any, **fields: Any) -> Any:
            if self._kind == "sync":
                with Client(self._url, **self._options) as client:
                    return getattr(client, name)(*args, **fields)

            async def ask() -> Any:
                async with AsyncClient(self._url, **self._options) as client:
                    return await getattr(client, name)(*args, **fields)

            return asyncio.run(ask())

        return call
