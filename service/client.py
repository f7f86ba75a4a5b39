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
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack
from urllib.parse import quote, urlencode
from uuid import uuid4

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.operator_schemas import (
    ErasedResponse,
    EvaluationResponse,
    ExplainResponse,
    ImpressionsResponse,
    ItemsResponse,
    LiveResponse,
    PoliciesResponse,
)
from service.schemas import (
    BatchItem,
    FeedbackEvent,
    FeedbackResponse,
    Filters,
    Health,
    ItemBatchResponse,
    ItemBody,
    ItemResponse,
    PastInteraction,
    RecommendRequest,
    RecommendResponse,
    UserResponse,
)

__all__ = ["AsyncClient", "BatchItem", "Client", "FeedbackEvent", "PastInteraction", "RecommendRequest", "ServiceError"]

NO_CONNECTION = "no connection"
_RETRIED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
Model = TypeVar("Model", bound=BaseModel)
_events = TypeAdapter(list[FeedbackEvent])


class ServiceError(Exception):
    """The service did not answer with success, after all attempts; no message holds the API key.

    `status` is its last answer ("503", or "no connection"), `code` the problem's code where it told one.
    """

    def __init__(self, message: str, status: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class RecommendFields(TypedDict, total=False):
    """What a request for a slate may say beside whom it is for; see `RecommendRequest`."""

    session_id: str
    k: int
    candidate_item_ids: list[str]
    exclude_item_ids: list[str]
    filters: Filters
    history: list[PastInteraction]
    context: dict[str, str | int | float | bool | None]


class ResponseFields(TypedDict, total=False):
    """What a response to an item may say beside the usual; see `FeedbackEvent`."""

    event_id: str
    session_id: str
    recommendation_id: str
    reward: float
    occurred_at: float


class ItemFields(TypedDict, total=False):
    """What an item may have beside its text; see `ItemBody`."""

    categories: list[str]
    hidden: bool


@dataclass(frozen=True)
class Call(Generic[Model]):
    """A request and what its answer is."""

    method: str
    path: str
    model: type[Model] | None = None
    body: bytes | None = None
    repeatable: bool = True  # made again where nobody knows what became of it

    @property
    def route(self) -> str:
        """The path without what it asks for."""
        return self.path.partition("?")[0]


def recommending(user_id: str | None, fields: RecommendFields) -> Call[RecommendResponse]:
    """POST /recommend."""
    named = {} if user_id is None else {"user_id": user_id}
    return asking(RecommendRequest.model_validate({**named, **fields}))


def asking(request: RecommendRequest) -> Call[RecommendResponse]:
    """POST /recommend."""
    return Call("POST", "/recommend", RecommendResponse, _json(request))


def responding(user_id: str | None, item_id: str, kind: str | None, fields: ResponseFields) -> Call[FeedbackResponse]:
    """POST /feedback of one event, whose id is made here unless it is given."""
    said = {"event_id": uuid4().hex, "item_id": item_id, **fields}
    said |= {name: value for name, value in (("user_id", user_id), ("type", kind)) if value is not None}
    return Call("POST", "/feedback", FeedbackResponse, _json(FeedbackEvent.model_validate(said)))


def feeding_back(events: Sequence[FeedbackEvent]) -> Call[FeedbackResponse]:
    """POST /feedback of an array."""
    return Call("POST", "/feedback", FeedbackResponse, _events.dump_json(list(events), exclude_unset=True))


def putting(item_id: str, text: str, fields: ItemFields) -> Call[ItemResponse]:
    """PUT /items/{item_id}."""
    body = ItemBody.model_validate({"text": text, **fields})
    return Call("PUT", f"/items/{_path(item_id)}", ItemResponse, _json(body))


def putting_all(items: Iterable[BatchItem]) -> Call[ItemBatchResponse]:
    """POST /items:batch."""
    body = b'{"items":[%s]}' % b",".join(map(_json, items))
    return Call("POST", "/items:batch", ItemBatchResponse, body)


def listing(search: str | None, after: str | None, count: int) -> Call[ItemsResponse]:
    """GET /items."""
    asked = {"search": search, "after": after, "count": str(count)}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    return Call("GET", f"/items?{query}", ItemsResponse)


def explaining(user_id: str, item_ids: Sequence[str]) -> Call[ExplainResponse]:
    """POST /explain."""
    body = TypeAdapter(dict[str, Any]).dump_json({"user_id": user_id, "item_ids": list(item_ids)})
    return Call("POST", "/explain", ExplainResponse, body)


def activating(version: int, follow: bool) -> Call[LiveResponse]:
    """POST /policies/{version}:activate."""
    return Call("POST", f"/policies/{version}:activate", LiveResponse, b'{"follow":%s}' % str(follow).lower().encode())


class _Attempts:
    """What both clients know: when to try again, and what an answer means."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout_s: float,
        attempts: int,
        seed: int | None,
        observe: Callable[[str, str], None] | None,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"attempts: {attempts}, expected at least 1")
        headers = {"Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.options: dict[str, Any] = {"base_url": url, "headers": headers, "timeout": timeout_s}
        self._attempts, self._random, self._observe = attempts, random.Random(seed), observe

    def told(self, call: Call[Any], answer: httpx.Response | None) -> None:
        """Tell who observes of an attempt; None: no connection."""
        if self._observe is not None:
            self._observe(call.route, NO_CONNECTION if answer is None else str(answer.status_code))

    def wait_s(self, call: Call[Any], attempt: int, answer: httpx.Response | None) -> float | None:
        """How long to wait before trying again after `attempt` attempts; None: the answer stands."""
        if answer is not None and answer.status_code not in _RETRIED:
            return None
        if attempt >= self._attempts or not call.repeatable:
            return None
        asked = answer.headers.get("Retry-After") if answer is not None else None
        if asked is not None and asked.isdigit():
            return min(float(asked), _LONGEST_WAIT_S)
        # Random, so that callers turned away together do not come back together.
        return self._random.uniform(0.5, 1.0) * min(_FIRST_WAIT_S * 2.0**attempt, _LONGEST_WAIT_S)


def _answered(call: Call[Model], answer: httpx.Response | None, attempt: int, broke: str) -> Model:
    """What a call's last answer says; raises ServiceError."""
    where = f"{call.method} {call.route}"
    if answer is None:
        raise ServiceError(f"{where}: {NO_CONNECTION} after {attempt} attempt(s): {broke}", NO_CONNECTION)
    if call.method == "DELETE" and call.model is None and attempt > 1 and answer.status_code == HTTPStatus.NOT_FOUND:
        return None  # type: ignore[return-value]  # gone by an attempt before, whose answer was lost
    if not answer.is_success:
        status, (code, detail) = str(answer.status_code), _problem(answer)
        raise ServiceError(f"{where}: {status} after {attempt} attempt(s): {detail}", status, code)
    if call.model is None:
        return None  # type: ignore[return-value]
    try:
        return call.model.model_validate_json(answer.content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        message = f"the service's answer is not a {call.model.__name__}: {field}: {first['msg']}"
        raise ServiceError(message, str(answer.status_code)) from None


def _problem(answer: httpx.Response) -> tuple[str | None, str]:
    """Code and detail of a problem document, with the fields that it names; the beginning of anything else."""
    try:
        told = answer.json()
        fields = [f"{error['field']}: {error['message']}" for error in told.get("errors", [])]
        return told["code"], " ".join([told["detail"], *fields])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, answer.text[:300]


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json(exclude_unset=True).encode()


def _path(name: str) -> str:
    """An id as one part of a path; dots alone would lead elsewhere."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


_JSON = {"Content-Type": "application/json"}


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
        """`seed` of the waits; `observe` hears of every attempt's route and status.

        Raises:
            ValueError: no attempt is allowed.
        """
        self._tries = _Attempts(url, api_key, timeout_s, attempts, seed, observe)
        self._http = httpx.Client(transport=transport, **self._tries.options)

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
        """Make a call, again where that helps; raises ServiceError."""
        attempt, answer, broke = 0, None, ""
        while True:
            attempt += 1
            try:
                headers = _JSON if call.body is not None else None
                answer = self._http.request(call.method, call.path, content=call.body, headers=headers)
            except httpx.TransportError as error:
                answer, broke = None, type(error).__name__
            self._tries.told(call, answer)
            wait_s = self._tries.wait_s(call, attempt, answer)
            if wait_s is None:
                return _answered(call, answer, attempt, broke)
            time.sleep(wait_s)

    def recommend(self, user_id: str | None = None, **fields: Unpack[RecommendFields]) -> RecommendResponse:
        """A slate for a user, or for the `session_id` of a visitor without an account; raises ServiceError."""
        return self.send(recommending(user_id, fields))

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
        return self.send(Call("GET", f"/items/{_path(item_id)}", ItemResponse))

    def items(self, search: str | None = None, after: str | None = None, count: int = 20) -> ItemsResponse:
        """A page of the catalogue, or what is closest to a text."""
        return self.send(listing(search, after, count))

    def delete_item(self, item_id: str) -> None:
        """Remove an item."""
        self.send(Call[BaseModel]("DELETE", f"/items/{_path(item_id)}"))

    def user(self, user_id: str) -> UserResponse:
        """What is stored of a user."""
        return self.send(Call("GET", f"/users/{_path(user_id)}", UserResponse))

    def erase_user(self, user_id: str) -> ErasedResponse:
        """Forget a user."""
        return self.send(Call("DELETE", f"/users/{_path(user_id)}", ErasedResponse))

    def explain(self, user_id: str, item_ids: Sequence[str]) -> ExplainResponse:
        """Which liked items are closest to these."""
        return self.send(explaining(user_id, item_ids))

    def impressions(self, count: int = 50) -> ImpressionsResponse:
        """The latest slates."""
        return self.send(Call("GET", f"/impressions?count={count}", ImpressionsResponse))

    def policies(self) -> PoliciesResponse:
        """All versions, and which one serves."""
        return self.send(Call("GET", "/policies", PoliciesResponse))

    def activate(self, version: int, follow: bool = True) -> LiveResponse:
        """Let a version serve."""
        return self.send(activating(version, follow))

    def roll_back(self) -> LiveResponse:
        """Let the version before serve, and hold it."""
        return self.send(Call("POST", "/policies:rollback", LiveResponse, repeatable=False))

    def freeze(self) -> LiveResponse:
        """The kill switch."""
        return self.send(Call("POST", "/policies:freeze", LiveResponse))

    def evaluation(self) -> EvaluationResponse:
        """What the arms earn."""
        return self.send(Call("GET", "/evaluation", EvaluationResponse))

    def ready(self) -> Health:
        """The state of the process that answers; raises ServiceError while it is not ready."""
        return self.send(Call("GET", "/readyz", Health, repeatable=False))


class AsyncClient:
    """The same for asyncio; use it in an `async with` block, or `aclose` it."""

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
        """As `Client`, with at most so many `connections`; `trust_env` off asks no proxy of the environment.

        Raises:
            ValueError: no attempt is allowed.
        """
        self._tries = _Attempts(url, api_key, timeout_s, attempts, seed, observe)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
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
        """Make a call, again where that helps; raises ServiceError."""
        attempt, answer, broke = 0, None, ""
        while True:
            attempt += 1
            try:
                headers = _JSON if call.body is not None else None
                async with self._connections:
                    answer = await self._http.request(call.method, call.path, content=call.body, headers=headers)
            except httpx.TransportError as error:
                answer, broke = None, type(error).__name__
            self._tries.told(call, answer)
            wait_s = self._tries.wait_s(call, attempt, answer)
            if wait_s is None:
                return _answered(call, answer, attempt, broke)
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
        return await self.send(Call("GET", f"/items/{_path(item_id)}", ItemResponse))

    async def items(self, search: str | None = None, after: str | None = None, count: int = 20) -> ItemsResponse:
        """A page of the catalogue, or what is closest to a text."""
        return await self.send(listing(search, after, count))

    async def delete_item(self, item_id: str) -> None:
        """Remove an item."""
        await self.send(Call[BaseModel]("DELETE", f"/items/{_path(item_id)}"))

    async def user(self, user_id: str) -> UserResponse:
        """What is stored of a user."""
        return await self.send(Call("GET", f"/users/{_path(user_id)}", UserResponse))

    async def erase_user(self, user_id: str) -> ErasedResponse:
        """Forget a user."""
        return await self.send(Call("DELETE", f"/users/{_path(user_id)}", ErasedResponse))

    async def explain(self, user_id: str, item_ids: Sequence[str]) -> ExplainResponse:
        """Which liked items are closest to these."""
        return await self.send(explaining(user_id, item_ids))

    async def impressions(self, count: int = 50) -> ImpressionsResponse:
        """The latest slates."""
        return await self.send(Call("GET", f"/impressions?count={count}", ImpressionsResponse))

    async def policies(self) -> PoliciesResponse:
        """All versions, and which one serves."""
        return await self.send(Call("GET", "/policies", PoliciesResponse))

    async def activate(self, version: int, follow: bool = True) -> LiveResponse:
        """Let a version serve."""
        return await self.send(activating(version, follow))

    async def roll_back(self) -> LiveResponse:
        """Let the version before serve, and hold it."""
        return await self.send(Call("POST", "/policies:rollback", LiveResponse, repeatable=False))

    async def freeze(self) -> LiveResponse:
        """The kill switch."""
        return await self.send(Call("POST", "/policies:freeze", LiveResponse))

    async def evaluation(self) -> EvaluationResponse:
        """What the arms earn."""
        return await self.send(Call("GET", "/evaluation", EvaluationResponse))

    async def ready(self) -> Health:
        """The state of the process that answers; raises ServiceError while it is not ready."""
        return await self.send(Call("GET", "/readyz", Health, repeatable=False))
