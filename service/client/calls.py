"""Calls of both clients: what each sends and gets, and when it may be sent again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

from pydantic import BaseModel, Field, TypeAdapter

from service.contract.filters import Filters, Placement, Rules
from service.contract.items import BatchItem, ItemBatchResponse, ItemBody, ItemPatch, ItemResponse
from service.contract.lists import ListResponse
from service.contract.operator import ExplainResponse, ItemsResponse, LiveResponse
from service.contract.preview import PreviewRequest, PreviewResponse
from service.contract.schemas import (
    FeedbackEvent,
    FeedbackResponse,
    PageRequest,
    PageResponse,
    PastInteraction,
    RecommendRequest,
    RecommendResponse,
)

NO_CONNECTION = "no connection"
_ITEM_S = 0.15  # for an item of a batch: a title is embedded in 13 ms, a long text in 120, on a busy core
Where = Mapping[str, Any] | None  # a condition, as in `Filters.where`
Model = TypeVar("Model", bound=BaseModel)
_events = TypeAdapter(list[FeedbackEvent])


class ServiceError(Exception):
    """The service did not answer with success, after all attempts; no message holds the API key.

    `status` is its last answer ("503", or "no connection"), `code` the problem's code if there is one. `in_doubt`: the
    request was sent and no answer came, so that the service may have carried it out, or may still be working on it.
    """

    def __init__(self, message: str, status: str, code: str | None = None, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.in_doubt = status, code, in_doubt


class Slate(RecommendResponse):
    """A slate of the service or, if that did not answer in time, one of the fallback."""

    fallback_reason: str | None = Field(None, description="Why it is the fallback's; None: it is the service's.")

    @property
    def is_fallback(self) -> bool:
        """True if the service did not answer, and these items are the fallback's."""
        return self.fallback_reason is not None


class RecommendFields(TypedDict, total=False):
    """Optional fields of a request for a slate; see `RecommendRequest`."""

    session_id: str
    k: int
    candidate_item_ids: list[str]
    exclude_item_ids: list[str]
    filters: Filters
    history: list[PastInteraction]
    repeat: Literal["never", "when_empty", "freely"]
    repeat_after_days: float
    exclude_feedback_types: list[str]
    rules: Rules
    placement: str
    include_items: bool
    context: dict[str, str | int | float | bool | None]


class PreviewFields(TypedDict, total=False):
    """Optional fields of a request for a preview; see `PreviewRequest`."""

    session_id: str
    arm: Literal["control", "adaptive"]
    k: int
    candidate_item_ids: list[str]
    exclude_item_ids: list[str]
    exclude_feedback_types: list[str]
    repeat_after_days: float
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
    properties: dict[str, bool | float | str | list[bool | float | str]]
    available_from: float | str
    available_until: float | str


@dataclass(frozen=True)
class Call(Generic[Model]):
    """A request and the type of its answer."""

    method: str
    path: str
    model: type[Model] | None = None
    body: bytes | None = None
    repeatable: bool = True
    sent_once: bool = False  # repeated only as long as the service cannot be at work on it
    extra_s: float = 0.0  # by which its answer may take longer than others

    @property
    def route(self) -> str:
        """The path without its query."""
        return self.path.partition("?")[0]


def request_of(user_id: str | None, fields: RecommendFields) -> RecommendRequest:
    """Make the request for a slate; raises ValueError if it is not valid."""
    named = {} if user_id is None else {"user_id": user_id}
    return RecommendRequest.model_validate({**named, **fields})


def asking(request: RecommendRequest) -> Call[Slate]:
    """POST /recommend."""
    return Call("POST", "/recommend", Slate, _json(request))


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


def patching(item_id: str, changes: ItemPatch) -> Call[ItemResponse]:
    """PATCH /items/{item_id}; the same changes twice are the same as once."""
    return Call("PATCH", f"/items/{path_of(item_id)}", ItemResponse, _json(changes))


def placing(name: str, placement: Placement) -> Call[Placement]:
    """PUT /placements/{name}."""
    return Call("PUT", f"/placements/{path_of(name)}", Placement, _json(placement))


def paging(request: PageRequest) -> Call[PageResponse]:
    """POST /recommend:page."""
    return Call("POST", "/recommend:page", PageResponse, _json(request))


def putting_all(items: Iterable[BatchItem]) -> Call[ItemBatchResponse]:
    """POST /items:batch. The service goes on with it when its client gave up: sent again, it is more work still."""
    bodies = [_json(item) for item in items]
    body = b'{"items":[%s]}' % b",".join(bodies)
    extra_s = _ITEM_S * len(bodies)
    return Call("POST", "/items:batch", ItemBatchResponse, body, sent_once=True, extra_s=extra_s)


def listing(search: str | None, after: str | None, count: int) -> Call[ItemsResponse]:
    """GET /items."""
    parameters = {"search": search, "after": after, "count": str(count)}
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return Call("GET", f"/items?{query}", ItemsResponse)


def showing(
    path: str, count: int, categories: Sequence[str], where: Where = None, days: int | None = None
) -> Call[ListResponse]:
    """GET a list that is the same for everybody."""
    parameters = [("count", str(count)), *(("category", category) for category in categories)]
    parameters += [] if where is None else [("where", json.dumps(where))]
    query = urlencode([*parameters, *([] if days is None else [("days", str(days))])])
    return Call("GET", f"{path}?{query}", ListResponse)


def explaining(user_id: str, item_ids: Sequence[str]) -> Call[ExplainResponse]:
    """POST /explain."""
    body = TypeAdapter(dict[str, Any]).dump_json({"user_id": user_id, "item_ids": list(item_ids)})
    return Call("POST", "/explain", ExplainResponse, body)


def activating(version: int, follow: bool, force: bool) -> Call[LiveResponse]:
    """POST /policies/{version}:activate."""
    body = json.dumps({"follow": follow, "force": force}).encode()
    return Call("POST", f"/policies/{version}:activate", LiveResponse, body)


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json(exclude_unset=True).encode()


def path_of(name: str) -> str:
    """An id as one part of a path; dots alone would lead elsewhere."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


JSON = {"Content-Type": "application/json"}
