"""POST /recommend from bytes in to bytes out: the way that nearly every request takes.

FastAPI and pydantic check a request with more care than its common form needs. This middleware takes what msgspec can
read at once, and leaves all else to the route (`routes.recommend`), which ends in the same `recommend`: whatever is
not valid, so that there is one place that says what is wrong. Tests hold that what is
taken here would have been valid there, with the same meaning.

"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import errors, guard
from service.api.errors import Problem
from service.api.rules import Days, FilterFields, Id, RuleFields, Types, both, decode_hook, exact
from service.api.state import State
from service.conditions import MAX_VALUE
from service.contract.base import DEFAULT_K, MAX_FIELDS, MAX_ID_BYTES, MAX_IDS, MAX_K, MAX_PAST
from service.contract.context import MAX_NAME, MOST_OF_LIST, few_facts
from service.contract.filters import PLACEMENT
from service.contract.schemas import RecommendRequest
from service.policy.context import ContextValue
from service.serving import slates
from service.serving.recommender import SlateRequest
from service.serving.slates import Repeat, SlateWarning
from service.store import api_keys, sessions

_PATHS = ("/recommend", "/v1/recommend")
SCOPES: tuple[api_keys.Scope, ...] = ("serve",)

FactName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Text = Annotated[str, Meta(max_length=MAX_VALUE)]
FactValue = (
    bool
    | Annotated[int, Meta(ge=-(2**53), le=2**53)]
    | Annotated[float, Meta(ge=-1e300, le=1e300)]
    | _Text
    | Annotated[list[_Text], Meta(max_length=MOST_OF_LIST)]
)
Finite = Annotated[float, Meta(ge=-1e6, le=1e6)]


class Past(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An interaction that the request itself carries."""

    item_id: Id
    reward: Finite | None = None


class FastRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of `schemas.RecommendRequest`."""

    user_id: Id | None = None
    session_id: Id | None = None
    k: Annotated[int, Meta(ge=1, le=MAX_K)] | None = None
    candidate_item_ids: Annotated[list[Id], Meta(max_length=MAX_IDS)] | None = None
    exclude_item_ids: Annotated[list[Id], Meta(max_length=MAX_IDS)] = []
    exclude_feedback_types: Types = []
    filters: FilterFields | None = None
    history: Annotated[list[Past], Meta(max_length=MAX_PAST)] | None = None
    repeat: Repeat | None = None
    repeat_after_days: Days | None = None
    rules: RuleFields | None = None
    placement: Annotated[str, Meta(pattern=exact(PLACEMENT))] | None = None
    include_items: bool = False
    context: Annotated[dict[FactName, FactValue | None], Meta(max_length=MAX_FIELDS)] | None = None

    def __post_init__(self) -> None:
        if self.context:
            few_facts(self.context)


class FastResponse(msgspec.Struct, frozen=True):
    """The fields of `schemas.RecommendResponse`."""

    recommendation_id: str
    policy_version: int
    arm: str
    items: list[slates.Slot]
    warnings: list[SlateWarning]


def fast_request(request: RecommendRequest) -> FastRequest:
    """Convert a request that pydantic has read."""
    return msgspec.convert(request.model_dump(), FastRequest, dec_hook=decode_hook)


_decoder = msgspec.json.Decoder(FastRequest, dec_hook=decode_hook)
_encoder = msgspec.json.Encoder()


class FastPath:
    """Middleware (plain ASGI) that answers /recommend itself where it can."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of any kind."""
        if scope["type"] != "http" or scope["method"] != "POST" or _path(scope) not in _PATHS:
            await self._app(scope, receive, send)
            return
        state: State = scope["app"].state.ialp
        scope["route"] = _ROUTE
        try:
            await guard.admit(state, scope["headers"], SCOPES)
            body = await _body(receive)
        except Problem as problem:
            await errors.answer(Request(scope), problem)(scope, receive, send)
            return
        request = decoded(body)
        if request is None:
            scope[guard.ADMITTED] = True
            await self._app(scope, _again(body, receive), send)
            return
        content = encoded(await recommend(request, state))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def _path(scope: Scope) -> str:
    """The path without the prefix of a proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class _Route(NamedTuple):
    """Path of the route that took a request, for the metrics."""

    path: str


_ROUTE = _Route("/recommend")


async def _body(receive: Receive) -> bytes:
    """The whole body.

    Raises:
        Problem: the client went away before its end. Only the metrics count it.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(HTTPStatus.BAD_REQUEST, "body_incomplete", "The body ended too early.")
        part: bytes = message.get("body", b"")
        body += part
        if not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body which was read before."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def decoded(body: bytes) -> FastRequest | None:
    """Decode a request; None if it is not valid or needs the route, which then looks at it."""
    try:
        request = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if request.user_id is None and request.session_id is None:
        return None
    if not body.isascii() or b"\\" in body:  # only then can an id have more bytes than characters
        ids = [request.user_id, request.session_id, *(request.candidate_item_ids or ()), *request.exclude_item_ids]
        ids += [past.item_id for past in request.history or ()]
        ids += [pin.item_id for pin in request.rules.pins] if request.rules is not None else []
        if not all(_is_short(name) for name in ids) or not _is_unicode(request.context):
            return None
    return request


def _is_unicode(context: object) -> bool:
    try:
        msgspec.json.encode(context)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _is_short(name: str | None) -> bool:
    try:
        return name is None or len(name.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def encoded(response: FastResponse) -> bytes:
    """The answer as JSON."""
    return _encoder.encode(response)


def encoded_page(slates: list[FastResponse]) -> bytes:
    """The answers of a page as JSON."""
    return _encoder.encode({"slates": slates})


async def recommend(request: FastRequest, state: State) -> FastResponse:
    """Answer with a slate for a user or an anonymous session."""
    user = sessions.user_key(request.user_id, request.session_id)
    visitor = sessions.visitor_of(request.user_id, request.session_id)
    slate = await state.recommender.recommend(user, visitor, slate_request(request, state))
    state.metrics.count_slate(slate.arm, slate.impression)
    items = await _described(slate.items, state) if request.include_items else slate.items
    return FastResponse(slate.recommendation_id, slate.policy_version, slate.arm, items, slate.warnings)


def slate_request(request: FastRequest, state: State) -> SlateRequest:
    """Return what is asked for, with what the placement says where the request says nothing."""
    placement = state.placements.of(request.placement)
    filters = request.filters or _UNFILTERED
    own = filters.where.condition if filters.where is not None else None
    rules = request.rules if request.rules is not None else placement.rules
    return SlateRequest(
        k=request.k or placement.k or DEFAULT_K,
        candidates=request.candidate_item_ids,
        excluded=request.exclude_item_ids,
        categories=filters.categories,
        condition=both(placement.condition(), own),
        rules=rules.rules() if rules is not None else None,
        history=state.history_of(request.history) if request.history is not None else None,
        repeat=request.repeat or placement.repeat,
        repeat_after_days=request.repeat_after_days or placement.repeat_after_days,
        excluded_types=(*request.exclude_feedback_types, *placement.exclude_feedback_types),
        placement=request.placement,
        context=facts_of(request.context),
    )


def facts_of(context: Mapping[str, ContextValue | None] | None) -> dict[str, ContextValue]:
    """The facts of a request; null is as if not there."""
    return {name: value for name, value in context.items() if value is not None} if context else {}


async def _described(slots: list[slates.Slot], state: State) -> list[slates.Slot]:
    """Add what is stored of the items; nothing while Redis is away."""
    try:
        records = await state.watch.store.get_many([slot.item_id for slot in slots])
    except (RedisError, OSError):
        return slots
    return [
        msgspec.structs.replace(slot, text=one.text, categories=one.categories, properties=one.properties)
        for slot, one in zip(slots, records, strict=True)
    ]


_UNFILTERED = FilterFields()
