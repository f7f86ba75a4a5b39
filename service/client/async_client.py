"""The client for asyncio: the calls of `sync_client`, awaited."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from pydantic import BaseModel

from service.client.attempts import KEPT_S, Attempts
from service.client.calls import (
    NO_CONNECTION,
    Call,
    ItemFields,
    Model,
    PreviewFields,
    RecommendFields,
    ResponseFields,
    ServiceError,
    Slate,
    Where,
    activating,
    asking,
    describing,
    explaining,
    feeding_back,
    listing,
    paging,
    patching,
    path_of,
    placing,
    previewing,
    putting,
    putting_all,
    request_of,
    responding,
    showing,
)
from service.client.fallback import PAGE_S, Fallback, instead
from service.contract.filters import Placement
from service.contract.items import BatchItem, ItemBatchResponse, ItemPatch, ItemResponse, PutItemResponse
from service.contract.lists import ListResponse
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
    FeedbackEvent,
    FeedbackResponse,
    Health,
    PageRequest,
    PageResponse,
    UserFeatures,
    UserResponse,
)


class AsyncClient:
    """Calls the service from asyncio; use it in an `async with` block, or `aclose` it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 5,
        recommend_budget_s: float = PAGE_S,
        fallback: Fallback | None = None,
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
        self._budget_s, self._fallback = recommend_budget_s, fallback
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

    async def send(self, call: Call[Model], budget_s: float = math.inf) -> Model:
        """Send a call, again where that helps, for `budget_s` at most; raises ServiceError."""
        sending = self._tries.begin(call, budget_s, asyncio.get_running_loop().time)
        while True:
            answer, broke = None, None
            try:
                left_s = sending.left_s
                async with asyncio.timeout(left_s if math.isfinite(left_s) else None), self._connections:
                    answer = await self._http.request(**sending.options())
            except (httpx.TransportError, TimeoutError) as error:
                broke = error
            wait_s = sending.ends(answer, broke)
            if wait_s is None:
                return sending.result()
            await asyncio.sleep(wait_s)

    async def status_of(self, path: str) -> str:
        """Status of a GET, or "no connection"; tried once and not observed."""
        try:
            return str((await self._http.get(path)).status_code)
        except httpx.TransportError:
            return NO_CONNECTION

    async def recommend(
        self,
        user_id: str | None = None,
        *,
        budget_s: float | None = None,
        fallback: Fallback | None = None,
        **fields: Unpack[RecommendFields],
    ) -> Slate:
        """A slate for a user, or for the `session_id` of a visitor without an account.

        `budget_s` and `fallback`: other ones than the client's.

        Raises:
            ServiceError: no answer in time, and there is no fallback; or the request or the API key is wrong.
        """
        request = request_of(user_id, fields)
        try:
            return await self.send(asking(request), self._budget_s if budget_s is None else budget_s)
        except ServiceError as error:
            return instead(request, fallback or self._fallback, error)

    async def recommend_page(self, request: PageRequest) -> PageResponse:
        """Several slates of one page, without an item that comes twice.

        Raises:
            ServiceError: no answer in time; or the request or the API key is wrong.
        """
        return await self.send(paging(request), self._budget_s)

    async def put_placement(self, name: str, placement: Placement) -> Placement:
        """Create or replace what a placement shows."""
        return await self.send(placing(name, placement))

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

    async def put_item(self, item_id: str, text: str, **fields: Unpack[ItemFields]) -> PutItemResponse:
        """Create or replace an item."""
        return await self.send(putting(item_id, text, fields))

    async def change_item(self, item_id: str, changes: ItemPatch) -> PutItemResponse:
        """Change some of an item, such as its price; what `changes` does not say stays."""
        return await self.send(patching(item_id, changes))

    async def put_items(self, items: Iterable[BatchItem]) -> ItemBatchResponse:
        """Create or replace many items, all or none."""
        return await self.send(putting_all(items))

    async def item(self, item_id: str) -> ItemResponse:
        """An item as stored."""
        return await self.send(Call("GET", f"/items/{path_of(item_id)}", ItemResponse))

    async def items(self, search: str | None = None, after: str | None = None, count: int = 20) -> ItemsResponse:
        """A page of the catalogue, or what is closest to a text."""
        return await self.send(listing(search, after, count))

    async def similar(
        self, item_id: str, *, count: int = 10, categories: Sequence[str] = (), where: Where = None
    ) -> ListResponse:
        """Get items like one, closest first."""
        return await self.send(showing(f"/similar/{path_of(item_id)}", count, categories, where))

    async def popular(
        self, *, count: int = 10, categories: Sequence[str] = (), where: Where = None, days: int | None = None
    ) -> ListResponse:
        """Get the items that earned the most responses, in the last `days` or since ever."""
        return await self.send(showing("/popular", count, categories, where, days))

    async def bought_together(
        self, item_id: str, *, count: int = 10, categories: Sequence[str] = (), where: Where = None
    ) -> ListResponse:
        """Get the items that users who bought this one bought, too."""
        return await self.send(showing(f"/bought-together/{path_of(item_id)}", count, categories, where))

    async def trending(
        self, *, count: int = 10, categories: Sequence[str] = (), where: Where = None, days: int = 1
    ) -> ListResponse:
        """Get the items that earned more responses in the last `days` than before."""
        return await self.send(showing("/trending", count, categories, where, days))

    async def newest(self, *, count: int = 10, categories: Sequence[str] = (), where: Where = None) -> ListResponse:
        """Get the items that came last into the catalogue, the latest first."""
        return await self.send(showing("/new", count, categories, where))

    async def delete_item(self, item_id: str) -> None:
        """Remove an item."""
        await self.send(Call[BaseModel]("DELETE", f"/items/{path_of(item_id)}"))

    async def user(self, user_id: str) -> UserResponse:
        """Get what is stored of a user."""
        return await self.send(Call("GET", f"/users/{path_of(user_id)}", UserResponse))

    async def put_user(self, user_id: str, features: Mapping[str, Any]) -> UserFeatures:
        """Store facts about a user instead of those stored before."""
        return await self.send(describing("PUT", user_id, features))

    async def change_user(self, user_id: str, features: Mapping[str, Any]) -> UserFeatures:
        """Change some facts about a user; None takes one away."""
        return await self.send(describing("PATCH", user_id, features))

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
