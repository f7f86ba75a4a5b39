"""A lean asynchronous client of the service: keeps connections, retries what may be retried, counts what came back."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx
import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.schemas import FeedbackEvent, FeedbackResponse, RecommendRequest, RecommendResponse
from simulator.connections import KeptConnections
from simulator.errors import SimulatorError

API_KEY_VARIABLE, API_KEY_FILE_VARIABLE = "IALP_API_KEY", "IALP_API_KEY_FILE"
NO_CONNECTION = "no connection"

_RETRIED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
Model = TypeVar("Model", bound=BaseModel)
_events = TypeAdapter(list[FeedbackEvent])


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
    if not allow_remote and not _is_loopback(parsed.host):
        raise SimulatorError(f"--url {url}: {parsed.host} is not this machine; say --allow-remote if you mean it")


def _is_loopback(host: str) -> bool:
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
        raise SimulatorError(f"--api-key-file {file}: cannot be read ({type(error).__name__})") from None
    if not key and file is None:
        return None
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise SimulatorError(f"{f'--api-key-file {file}' if file else API_KEY_VARIABLE}: there is no API key in it")
    return key


def _transport_to(url: str) -> httpx.AsyncBaseTransport | None:
    """The lean one to this machine; elsewhere, httpx's own, which knows TLS and what proxies do to answers."""
    parsed = httpx.URL(url)
    return KeptConnections() if parsed.scheme == "http" and _is_loopback(parsed.host) else None


class ServiceClient:
    """Calls `/recommend` and `/feedback` over at most `connections` kept connections.

    429, 503 and broken connections are tried again, the very same bytes, after what Retry-After says or else a growing
    random wait; feedback counts once because its event ids stay. `statuses` counts every attempt by (route, status).
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
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        # Proxies and netrc of the environment are not asked: load must reach the named service and nothing else.
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport or _transport_to(url),
            trust_env=False,
        )
        self._connections = asyncio.Semaphore(connections)
        self._rng, self._attempts = rng, attempts
        self.statuses: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """Ask for a slate.

        Raises:
            ServiceError: no success after all attempts.
        """
        body = request.model_dump_json(exclude_unset=True).encode()
        return _parsed(RecommendResponse, await self._post("/recommend", body))

    async def feedback(self, events: Sequence[FeedbackEvent]) -> FeedbackResponse:
        """Send responses as one array.

        Raises:
            ServiceError: no success after all attempts.
        """
        body = _events.dump_json(list(events), exclude_unset=True)
        return _parsed(FeedbackResponse, await self._post("/feedback", body))

    async def status_of(self, path: str) -> str:
        """Status of a GET, or `no connection`; tried once, not counted."""
        try:
            return str((await self._http.get(path)).status_code)
        except httpx.TransportError:
            return NO_CONNECTION

    async def _post(self, route: str, body: bytes) -> bytes:
        status = detail = ""
        for attempt in range(1, self._attempts + 1):
            asked_wait: str | None = None
            try:
                async with self._connections:
                    response = await self._http.post(route, content=body)
                status, detail = str(response.status_code), response.text[:300]
                asked_wait = response.headers.get("Retry-After")
            except httpx.TransportError as error:
                response, status, detail = None, NO_CONNECTION, type(error).__name__
            self.statuses[route, status] += 1
            if response is not None and response.is_success:
                return response.content
            if response is not None and response.status_code not in _RETRIED:
                break
            if attempt < self._attempts:
                await asyncio.sleep(self._wait_s(attempt, asked_wait))
        raise ServiceError(f"POST {route}: {status} after {attempt} attempt(s): {detail}", status)

    def _wait_s(self, attempt: int, asked: str | None) -> float:
        if asked is not None and asked.isdigit():
            return min(float(asked), _LONGEST_WAIT_S)
        # Random, so that callers turned away together do not come back together.
        return float(self._rng.uniform(0.5, 1.0)) * min(_FIRST_WAIT_S * 2.0**attempt, _LONGEST_WAIT_S)


def _parsed(model: type[Model], content: bytes) -> Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ServiceError(f"the service's answer is not a {model.__name__}: {field}: {first['msg']}", "200") from None
