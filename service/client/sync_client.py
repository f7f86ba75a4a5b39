"""A typed client of the service: needs httpx and pydantic, none of the service's weight.

    with Client("http://127.0.0.1:8000", api_key=key) as client:
        slate = client.recommend("ann", k=5)
        client.respond("ann", slate.items[0].item_id, "click", recommendation_id=slate.recommendation_id)

Tried again are 429, 503 and connections that break, the very same bytes, after what Retry-After says or else a growing
random wait; but not a roll-back, which would go on to the version before that, nor a batch of items that the service
may still be at work on. Feedback counts once, since an event's id is chosen before it is sent for the first time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
from pydantic import BaseModel

from service.client.attempts import KEPT_S, Attempts, Sending
from service.client.calls import (
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


class Client:
    """Calls the service; use it in a `with` block, or `close` it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 5,
        recommend_budget_s: float = PAGE_S,
        fallback: Fallback | None = None,
        seed: int | None = None,
        observe: Callable[[str, str], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`seed`: of the random waits; `observe` is called with every attempt's route and status.

        `recommend_budget_s`: longest wait for a slate, all attempts together; with `math.inf`, only each attempt has an
        end. `fallback` gives the ids of the items that are shown instead if the service does not answer in time.

        Raises:
            ValueError: no attempt is allowed.
        """
        self._budget_s, self._fallback = recommend_budget_s, fallback
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

    def send(self, call: Call[Model], budget_s: float = math.inf) -> Model:
        """Send a call, again where that helps, for `budget_s` at most; raises ServiceError."""
        sending = self._tries.begin(call, budget_s, time.monotonic)
        while True:
            answer, broke = None, None
            try:
                answer = self._attempt(sending) if math.isfinite(budget_s) else self._http.request(**sending.options())
            except httpx.TransportError as error:
                broke = error
            wait_s = sending.ends(answer, broke)
            if wait_s is None:
                return sending.result()
            time.sleep(wait_s)

    def _attempt(self, sending: Sending[Model]) -> httpx.Response:
        """Make an attempt that ends in time even if its answer comes bit by bit."""
        parts = []
        with self._http.stream(**sending.options()) as answer:
            for part in answer.iter_bytes():
                parts.append(part)
                if sending.left_s <= 0:
                    raise httpx.ReadTimeout("no answer in time")
        headers = {name: value for name, value in answer.headers.items() if name != "content-encoding"}  # it is undone
        return httpx.Response(answer.status_code, headers=headers, content=b"".join(parts))

    def recommend(
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
            return self.send(asking(request), self._budget_s if budget_s is None else budget_s)
        except ServiceError as error:
            return instead(request, fallback or self._fallback, error)

    def recommend_page(self, request: PageRequest) -> PageResponse:
        """Several slates of one page, without an item that comes twice.

        Raises:
            ServiceError: no answer in time; or the request or the API key is wrong.
        """
        return self.send(paging(request), self._budget_s)

    def put_placement(self, name: str, placement: Placement) -> Placement:
        """Create or replace what a placement shows."""
        return self.send(placing(name, placement))

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

    def put_item(self, item_id: str, text: str, **fields: Unpack[ItemFields]) -> PutItemResponse:
        """Create or replace an item."""
        return self.send(putting(item_id, text, fields))

    def change_item(self, item_id: str, changes: ItemPatch) -> PutItemResponse:
        """Change some of an item, such as its price; what `changes` does not say stays."""
        return self.send(patching(item_id, changes))

    def put_items(self, items: Iterable[BatchItem]) -> ItemBatchResponse:
        """Create or replace many items, all or none."""
        return self.send(putting_all(items))

    def item(self, item_id: str) -> ItemResponse:
        """An item as stored."""
        return self.send(Call("GET", f"/items/{path_of(item_id)}", ItemResponse))

    def items(self, search: str | None = None, after: str | None = None, count: int = 20) -> ItemsResponse:
        """A page of the catalogue, or what is closest to a text."""
        return self.send(listing(search, after, count))

    def similar(
        self, item_id: str, *, count: int = 10, categories: Sequence[str] = (), where: Where = None
    ) -> ListResponse:
        """Get items like one, closest first."""
        return self.send(showing(f"/similar/{path_of(item_id)}", count, categories, where))

    def popular(
        self, *, count: int = 10, categories: Sequence[str] = (), where: Where = None, days: int | None = None
    ) -> ListResponse:
        """Get the items that earned the most responses, in the last `days` or since ever."""
        return self.send(showing("/popular", count, categories, where, days))

    def bought_together(
        self, item_id: str, *, count: int = 10, categories: Sequence[str] = (), where: Where = None
    ) -> ListResponse:
        """Get the items that users who bought this one bought, too."""
        return self.send(showing(f"/bought-together/{path_of(item_id)}", count, categories, where))

    def trending(
        self, *, count: int = 10, categories: Sequence[str] = (), where: Where = None, days: int = 1
    ) -> ListResponse:
        """Get the items that earned more responses in the last `days` than before."""
        return self.send(showing("/trending", count, categories, where, days))

    def newest(self, *, count: int = 10, categories: Sequence[str] = (), where: Where = None) -> ListResponse:
        """Get the items that came last into the catalogue, the latest first."""
        return self.send(showing("/new", count, categories, where))

    def delete_item(self, item_id: str) -> None:
        """Remove an item."""
        self.send(Call[BaseModel]("DELETE", f"/items/{path_of(item_id)}"))

    def user(self, user_id: str) -> UserResponse:
        """Get what is stored of a user."""
        return self.send(Call("GET", f"/users/{path_of(user_id)}", UserResponse))

    def put_user(self, user_id: str, features: Mapping[str, Any]) -> UserFeatures:
        """Store facts about a user instead of those stored before."""
        return self.send(describing("PUT", user_id, features))

    def change_user(self, user_id: str, features: Mapping[str, Any]) -> UserFeatures:
        """Change some facts about a user; None takes one away."""
        return self.send(describing("PATCH", user_id, features))

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
