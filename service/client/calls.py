"""Parts that both clients share: what each call sends and gets, when it is sent again, and what its answer means."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.contract.operator import ExplainResponse, ItemsResponse, LiveResponse
from service.contract.preview import PreviewRequest, PreviewResponse
from service.contract.schemas import (
    BatchItem,
    FeedbackEvent,
    FeedbackResponse,
    Filters,
    ItemBatchResponse,
    ItemBody,
    ItemResponse,
    PastInteraction,
    RecommendRequest,
    RecommendResponse,
)

NO_CONNECTION = "no connection"
KEPT_S = 2.0  # an idle connection: the service ends it after 5 s, and a call that is sent just then is lost
_RETRIED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
Model = TypeVar("Model", bound=BaseModel)
_events = TypeAdapter(list[FeedbackEvent])


class ServiceError(Exception):
    """The service did not answer with success, after all attempts; no message holds the API key.

    `status` is its last answer ("503", or "no connection"), `code` the problem's code if there is one.
    """

    def __init__(self, message: str, status: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class RecommendFields(TypedDict, total=False):
    """Optional fields of a request for a slate; see `RecommendRequest`."""

    session_id: str
    k: int
    candidate_item_ids: list[str]
    exclude_item_ids: list[str]
    filters: Filters
    history: list[PastInteraction]
    repeat: Literal["never", "when_empty", "freely"]
    context: dict[str, str | int | float | bool | None]


class PreviewFields(TypedDict, total=False):
    """Optional fields of a request for a preview; see `PreviewRequest`."""

    session_id: str
    arm: Literal["control", "adaptive"]
    k: int
    candidate_item_ids: list[str]
    exclude_item_ids: list[str]
    filters: Filters
    history: list[PastInteraction]
    baseline: list[PastInteraction]
    item_ids: list[str]
    seed: int


class ResponseFields(TypedDict, total=False):
    """Optional fields of a response to an item; see `FeedbackEvent`."""

    event_id: str
    session_id: str
    recommendation_id: str
    reward: float
    undo: Literal[True]
    occurred_at: float | str


class ItemFields(TypedDict, total=False):
    """Optional fields of an item; see `ItemBody`."""

    categories: list[str]
    hidden: bool


@dataclass(frozen=True)
class Call(Generic[Model]):
    """A request and the type of its answer."""

    method: str
    path: str
    model: type[Model] | None = None
    body: bytes | None = None
    repeatable: bool = True  # made again where nobody knows what became of it

    @property
    def route(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]


def recommending(user_id: str | None, fields: RecommendFields) -> Call[RecommendResponse]:
    """POST /recommend."""
    named = {} if user_id is None else {"user_id": user_id}
    return asking(RecommendRequest.model_validate({**named, **fields}))


def asking(request: RecommendRequest) -> Call[RecommendResponse]:
    """POST /recommend."""
    return Call("POST", "/recommend", RecommendResponse, _json(request))


def previewing(user_id: str | None, fields: PreviewFields) -> Call[PreviewResponse]:
    """POST /preview."""
    named = {} if user_id is None else {"user_id": user_id}
    return Call("POST", "/preview", PreviewResponse, _json(PreviewRequest.model_validate({**named, **fields})))


def responding(user_id: str | None, item_id: str, kind: str | None, fields: ResponseFields) -> Call[FeedbackResponse]:
    """POST /feedback of one event, with a new id unless one is given."""
    event = {"event_id": uuid4().hex, "item_id": item_id, **fields}
    event |= {name: value for name, value in (("user_id", user_id), ("type", kind)) if value is not None}
    return Call("POST", "/feedback", FeedbackResponse, _json(FeedbackEvent.model_validate(event)))


def feeding_back(events: Sequence[FeedbackEvent]) -> Call[FeedbackResponse]:
    """POST /feedback of an array."""
    return Call("POST", "/feedback", FeedbackResponse, _events.dump_json(list(events), exclude_unset=True))


def putting(item_id: str, text: str, fields: ItemFields) -> Call[ItemResponse]:
    """PUT /items/{item_id}."""
    body = ItemBody.model_validate({"text": text, **fields})
    return Call("PUT", f"/items/{path_of(item_id)}", ItemResponse, _json(body))


def putting_all(items: Iterable[BatchItem]) -> Call[ItemBatchResponse]:
    """POST /items:batch."""
    body = b'{"items":[%s]}' % b",".join(map(_json, items))
    return Call("POST", "/items:batch", ItemBatchResponse, body)


def listing(search: str | None, after: str | None, count: int) -> Call[ItemsResponse]:
    """GET /items."""
    parameters = {"search": search, "after": after, "count": str(count)}
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return Call("GET", f"/items?{query}", ItemsResponse)


def explaining(user_id: str, item_ids: Sequence[str]) -> Call[ExplainResponse]:
    """POST /explain."""
    body = TypeAdapter(dict[str, Any]).dump_json({"user_id": user_id, "item_ids": list(item_ids)})
    return Call("POST", "/explain", ExplainResponse, body)


def activating(version: int, follow: bool, force: bool) -> Call[LiveResponse]:
    """POST /policies/{version}:activate."""
    body = json.dumps({"follow": follow, "force": force}).encode()
    return Call("POST", f"/policies/{version}:activate", LiveResponse, body)


class Attempts:
    """Connection options and retries that both clients share."""

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

    def report(self, call: Call[Any], answer: httpx.Response | None) -> None:
        """Report an attempt to the observer, if there is one; `answer` is None if there was no connection."""
        if self._observe is not None:
            self._observe(call.route, NO_CONNECTION if answer is None else str(answer.status_code))

    def wait_s(self, call: Call[Any], attempt: int, answer: httpx.Response | None) -> float | None:
        """Return the seconds to wait before trying again after `attempt` attempts; None: the answer stands."""
        if answer is not None and answer.status_code not in _RETRIED:
            return None
        if attempt >= self._attempts or not call.repeatable:
            return None
        retry_after = answer.headers.get("Retry-After") if answer is not None else None
        if retry_after is not None and retry_after.isdigit():
            return min(float(retry_after), _LONGEST_WAIT_S)
        # Random, so that callers turned away together do not come back together.
        return self._random.uniform(0.5, 1.0) * min(_FIRST_WAIT_S * 2.0**attempt, _LONGEST_WAIT_S)


def answered(call: Call[Model], answer: httpx.Response | None, attempt: int, broke: str) -> Model:
    """Decode a call's last answer; raises ServiceError if it is not a success."""
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
        document = answer.json()
        fields = [f"{error['field']}: {error['message']}" for error in document.get("errors", [])]
        return document["code"], " ".join([document["detail"], *fields])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, answer.text[:300]


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json(exclude_unset=True).encode()


def path_of(name: str) -> str:
    """An id as one part of a path; dots alone would lead elsewhere."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


JSON = {"Content-Type": "application/json"}
