"""The service's own client, lean enough to make load: keeps connections, and counts what came back."""

from __future__ import annotations

import ipaddress
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
import numpy as np
from pydantic import BaseModel

from service import client
from service.client import AsyncClient
from service.client.calls import Call, asking, feeding_back
from service.contract.schemas import FeedbackEvent, FeedbackResponse, RecommendRequest, RecommendResponse
from simulator.errors import SimulatorError
from simulator.load.connections import KeptConnections

API_KEY_VARIABLE = "IALP_API_KEY"

Model = TypeVar("Model", bound=BaseModel)


class ServiceError(SimulatorError):
    """The service did not answer a call with success, after all attempts; `status` is its last answer."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


def check_url(url: str, allow_remote: bool) -> None:
    """Load goes to this machine unless someone says otherwise.

    Raises:
        SimulatorError: not an http(s) URL, or its host is not this machine's loopback and `allow_remote` is False.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise SimulatorError(f"--url {url}: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise SimulatorError(f"--url {url}: expected http://HOST:PORT")
    if not allow_remote and not is_loopback(url):
        raise SimulatorError(f"--url {url}: {parsed.host} is not this machine; add --allow-remote to use it")


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_api_key(file: Path | None) -> str | None:
    """The key in `file`, else the one in the environment, if any; no message holds it.

    Raises:
        SimulatorError: the file cannot be read, or what is there cannot be sent as a key.
    """
    try:
        key = file.read_text().strip() if file else os.environ.get(API_KEY_VARIABLE, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SimulatorError(
            f"--api-key-file {file}: cannot be read ({type(error).__name__}); "
            "`python -m service keys create --out FILE` writes one"
        ) from None
    if not key and file is None:
        return None
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise SimulatorError(f"{f'--api-key-file {file}' if file else API_KEY_VARIABLE}: there is no API key in it")
    return key


def _transport_to(url: str) -> httpx.AsyncBaseTransport | None:
    """The lean one to this machine; elsewhere, httpx's own, which knows TLS and what proxies do to answers."""
    return KeptConnections() if httpx.URL(url).scheme == "http" and is_loopback(url) else None


class ServiceClient:
    """Calls `/recommend` and `/feedback` over at most `connections` kept connections, as `service.client` does.

    `statuses` counts every attempt by (route, status).
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        rng: np.random.Generator,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.statuses: Counter[tuple[str, str]] = Counter()
        self._client = AsyncClient(
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            attempts=attempts,
            connections=connections,
            seed=int(rng.integers(2**32)),
            observe=self._count,
            transport=transport or _transport_to(url),
            # Proxies and netrc of the environment are not asked: load must reach the named service and nothing else.
            trust_env=False,
        )

    def _count(self, route: str, status: str) -> None:
        self.statuses[route, status] += 1

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Ask for a slate.

        Raises:
            ServiceError: no success after all attempts.
        """
        return await self._send(asking(request))

    async def feedback(self, events: Sequence[FeedbackEvent]) -> FeedbackResponse:
        """Send responses as one array.

        Raises:
            ServiceError: no success after all attempts.
        """
        return await self._send(feeding_back(events))

    async def status_of(self, path: str) -> str:
        """Status of a GET, or `no connection`; tried once, not counted."""
        return await self._client.status_of(path)

    async def _send(self, call: Call[Model]) -> Model:
        try:
            return await self._client.send(call)
        except client.ServiceError as error:
            raise ServiceError(str(error), error.status) from None
