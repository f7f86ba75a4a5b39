"""A typed client of the service, synchronous and asynchronous: needs httpx and pydantic, none of the service's weight.

    with Client("http://127.0.0.1:8000", api_key=key) as client:
        slate = client.recommend("ann", k=5)
        client.respond("ann", slate.items[0].item_id, "click", recommendation_id=slate.recommendation_id)

Tried again are 429, 503 and connections that break, the very same bytes, after what Retry-After says or else a growing
random wait; but not a roll-back, which would go on to the version before that. Feedback counts once, since an event's
id is chosen before it is sent for the first time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx
from pydantic import BaseModel

from service.client.calls import (
    JSON,
    KEPT_S,
    NO_CONNECTION,
    Attempts,
    Call,
    ItemFields,
    Model,
    PreviewFields,
    RecommendFields,
    ResponseFields,
    ServiceError,
    activating,
    answered,
    explaining,
    feeding_back,
    listing,
    path_of,
    previewing,
    putting,
    putting_all,
    recommending,
    responding,
)
from service.contract.operator import (
    ErasedResponse,
    EvaluationResponse,
    ExplainResponse,
    ImpressionsResponse,
    ItemsResponse,
    LiveResponse,
    PoliciesResponse,
)
from service.contract.preview import PreviewResponse
from service.contract.schemas import (
    BatchItem,
    FeedbackEvent,
    FeedbackResponse,
    Health,
    ItemBatchResponse,
    ItemResponse,
    PastInteraction,
    RecommendResponse,
    UserResponse,
)

__all__ = ["AsyncClient", "BatchItem", "Client", "FeedbackEvent", "PastInteraction", "ServiceError"]


class Client:
    """Calls the service; use it in a `with` block, or `close` it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 5,
        seed: int | None = None,
        observe: Callable[[str, str], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`seed`: of the random waits; `observe` is called with every attempt's route and status.

        Raises:
            ValueError: no attempt is allowed.
        """
        self._tries = Attempts(url, api_key, timeout_s, attempts, seed, observe)
        limits = httpx.Limits(keepalive_expiry=KEPT_S)
        self._http = httpx.Client(transport=transport, limits=limits, **self._tries.options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def send(self, call: Call[Model]) -> Model:
        """Send a call, again where that helps; raises ServiceError."""
        attempt, answer, broke = 0, None, ""
        while True:
            attempt += 1
            try:
                headers = JSON if call.body is not None else None
                answer = self._http.request(call.method, call.path, content=call.body, headers=headers)
            except httpx.TransportError as error:
                answer, broke = None, type(error).__name__
            self._tries.report(call, answer)
            wait_s = self._tries.wait_s(call, attempt, answer)
            if wait_s is None:
                return answered(call, answer, attempt, broke)
            time.sleep(wait_s)

    def recommend(self, user_id: str | None = None, **fields: Unpack[RecommendFields]) -> RecommendResponse:
        """A slate for a user, or for the `session_id` of a visitor without an account; raises ServiceError."""
        return self.send(recommending(user_id, fields))

    def preview(self, user_id: str | None = None, **fields: Unpack[PreviewFields]) -> PreviewResponse:
        """Preview what a user, or without one a stranger, would be shown, and how likely it is; changes nothing."""
        return self.send(previewing(user_id, fields))

    def respond(
        self, user_id: str | None, item_id: str, kind: str | None = None, **fields: Unpack[ResponseFields]
    ) -> FeedbackResponse:
        """A response to one item: of a `kind` that the service knows, such as "click", or a `reward`."""
        return self.send(responding(user_id, item_id, kind, fields))

    def feedback(self, events: Sequence[FeedbackEvent]) -> FeedbackResponse:
        """Many responses as one array."""
        return self.send(feeding_back(events))

    def put_item(self, item_id: str, text: str, **fields: Unpack[ItemFields]) -> ItemResponse:
        """Create or replace an item."""
        return self.send(putting(item_id, text, fields))

    def put_items(self, items: Iterable[BatchItem]) -> ItemBatchResponse:
        """Create or replace many items, all or none."""
        return self.send(putting_all(items))

    def item(self, item_id: str) -> ItemResponse:
        """An item as stored."""
        return self.send(Call("GET", f"/items/{path_of(item_id)}", ItemResponse))

    def items(self, search: str | None = None, after: str | None = None, count: int = 20) -> ItemsResponse:
        """A page of the catalogue, or what is closest to a text."""
        return self.send(listing(search, after, count))

    def delete_item(self, item_id: str) -> None:
        """Remove an item."""
        self.send(Call[BaseModel]("DELETE", f"/items/{path_of(item_id)}"))

    def user(self, user_id: str) -> UserResponse:
        """Get what is stored of a user."""
        return self.send(Call("GET", f"/users/{path_of(user_id)}", UserResponse))

    def erase_user(self, user_id: str) -> ErasedResponse:
        """Forget a user."""
        return self.send(Call("DELETE", f"/users/{path_of(user_id)}", ErasedResponse))

    def explain(self, user_id: str, item_ids: Sequence[str]) -> ExplainResponse:
        """Find the liked items that are closest to these."""
        return self.send(explaining(user_id, item_ids))

    def impressions(self, count: int = 50) -> ImpressionsResponse:
        """The latest slates."""
        return self.send(Call("GET", f"/impressions?count={count}", ImpressionsResponse))

    def policies(self) -> PoliciesResponse:
        """All versions, and which one serves."""
        return self.send(Call("GET", "/policies", PoliciesResponse))

    def activate(self, version: int, follow: bool = True, force: bool = False) -> LiveResponse:
        """Let a version serve."""
        return self.send(activating(version, follow, force))

    def roll_back(self) -> LiveResponse:
        """Let the version before serve, and hold it."""
        return self.send(Call("POST", "/policies:rollback", LiveResponse, repeatable=False))

    def freeze(self) -> LiveResponse:
        """The kill switch."""
        return self.send(Call("POST", "/policies:freeze", LiveResponse))

    def evaluation(self) -> EvaluationResponse:
        """Get what the arms earn."""
        return self.send(Call("GET", "/evaluation", EvaluationResponse))

    def ready(self) -> Health:
        """The state of the process that answers; raises ServiceError while it is not ready."""
        return self.send(Call("GET", "/readyz", Health, repeatable=False))


class AsyncClient:
    """Calls the service from asyncio; use it in an `async with` block, or `aclose` it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 5,
        connections: int = 100,
        seed: int | None = None,
        observe: Callable[[str, str], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        trust_env: bool = True,
    ) -> None:
        """Take what `Client` takes, and a limit of `connections`; `trust_env` off ignores the environment's proxies.

        Raises:
            ValueError: no attempt is allowed.
        """
        self._tries = Attempts(url, api_key, timeout_s, attempts, seed, observe)
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEPT_S
        )
        self._http = httpx.AsyncClient(transport=transport, limits=limits, trust_env=trust_env, **self._tries.options)
        self._connections = asyncio.Semaphore(connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def send(self, call: Call[Model]) -> Model:
        """Send a call, again where that helps; raises ServiceError."""
        attempt, answer, broke = 0, None, ""
        while True:
            attempt += 1
            try:
                headers = JSON if call.body is not None else None
                async with self._connections:
                    answer = await self._http.request(call.method, call.path, content=call.body, headers=headers)
            except httpx.TransportError as error:
                answer, broke = None, type(error).__name__
            self._tries.report(call, answer)
            wait_s = self._tries.wait_s(call, attempt, answer)
            if wait_s is None:
                return answered(call, answer, attempt, broke)
            await asyncio.sleep(wait_s)

    async def status_of(self, path: str) -> str:
        """Status of a GET, or "no connection"; tried once and not observed."""
        try:
            return str((await self._http.get(path)).status_code)
        except httpx.TransportError:
            return NO_CONNECTION

    async def recommend(self, user_id: str | None = None, **fields: Unpack[RecommendFields]) -> RecommendResponse:
        """A slate for a user, or for the `session_id` of a visitor without an account; raises ServiceError."""
        return await self.send(recommending(user_id, fields))

    async def preview(self, user_id: str | None = None, **fields: Unpack[PreviewFields]) -> PreviewResponse:
        """Preview what a user, or without one a stranger, would be shown, and how likely it is; changes nothing."""
        return await self.send(previewing(user_id, fields))

    async def respond(
        self, user_id: str | None, item_id: str, kind: str | None = None, **fields: Unpack[ResponseFields]
    ) -> FeedbackResponse:
        """A response to one item: of a `kind` that the service knows, such as "click", or a `reward`."""
        return await self.send(responding(user_id, item_id, kind, fields))

    async def feedback(self, events: Sequence[FeedbackEvent]) -> FeedbackResponse:
        """Many responses as one array."""
        return await self.send(feeding_back(events))

    async def put_item(self, item_id: str, text: str, **fields: Unpack[ItemFields]) -> ItemResponse:
        """Create or replace an item."""
        return await self.send(putting(item_id, text, fields))

    async def put_items(self, items: Iterable[BatchItem]) -> ItemBatchResponse:
        """Create or replace many items, all or none."""
        return await self.send(putting_all(items))

    async def item(self, item_id: str) -> ItemResponse:
        """An item as stored."""
        return await self.send(Call("GET", f"/items/{path_of(item_id)}", ItemResponse))

    async def items(self, search: str | None = None, after: str | None = None, count: int = 20) -> ItemsResponse:
        """A page of the catalogue, or what is closest to a text."""
        return await self.send(listing(search, after, count))

    async def delete_item(self, item_id: str) -> None:
        """Remove an item."""
        await self.send(Call[BaseModel]("DELETE", f"/items/{path_of(item_id)}"))

    async def user(self, user_id: str) -> UserResponse:
        """Get what is stored of a user."""
        return await self.send(Call("GET", f"/users/{path_of(user_id)}", UserResponse))

    async def erase_user(self, user_id: str) -> ErasedResponse:
        """Forget a user."""
        return await self.send(Call("DELETE", f"/users/{path_of(user_id)}", ErasedResponse))

    async def explain(self, user_id: str, item_ids: Sequence[str]) -> ExplainResponse:
        """Find the liked items that are closest to these."""
        return await self.send(explaining(user_id, item_ids))

    async def impressions(self, count: int = 50) -> ImpressionsResponse:
        """The latest slates."""
        return await self.send(Call("GET", f"/impressions?count={count}", ImpressionsResponse))

    async def policies(self) -> PoliciesResponse:
        """All versions, and which one serves."""
        return await self.send(Call("GET", "/policies", PoliciesResponse))

    async def activate(self, version: int, follow: bool = True, force: bool = False) -> LiveResponse:
        """Let a version serve."""
        return await self.send(activating(version, follow, force))

    async def roll_back(self) -> LiveResponse:
        """Let the version before serve, and hold it."""
        return await self.send(Call("POST", "/policies:rollback", LiveResponse, repeatable=False))

    async def freeze(self) -> LiveResponse:
        """The kill switch."""
        return await self.send(Call("POST", "/policies:freeze", LiveResponse))

    async def evaluation(self) -> EvaluationResponse:
        """Get what the arms earn."""
        return await self.send(Call("GET", "/evaluation", EvaluationResponse))

    async def ready(self) -> Health:
        """The state of the process that answers; raises ServiceError while it is not ready."""
        return await self.send(Call("GET", "/readyz", Health, repeatable=False))
