"""POST /recommend from bytes in to bytes out: the way that nearly every request takes.

FastAPI and pydantic check a request with more care than its common form needs. This middleware takes what msgspec can
read at once, and leaves all else to the route (`routes.recommend`), which ends in the same `recommend`: requests with
`context`, and whatever is not valid, so that there is one place that says what is wrong. Tests hold that what is
taken here would have been valid there, with the same meaning.

Requests of one turn of the event loop ask together (`Coalesced`): Redis once for their sessions, the policy once for
its probabilities, Redis once more to log what they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import auth, errors, guard, sessions, slates, telemetry
from service.catalogue import Catalogue
from service.errors import Problem
from service.events import Impression
from service.live import LivePolicy
from service.policy.types import session_state
from service.schemas import MAX_ID_BYTES, MAX_IDS, MAX_K, MAX_PAST, PastInteraction, RecommendRequest
from service.sessions import Session
from service.state import State

_PATHS = ("/recommend", "/v1/recommend")
SCOPES: tuple[auth.Scope, ...] = ("serve",)

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
Finite = Annotated[float, Meta(ge=-1e6, le=1e6)]


class Past(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An interaction that the request itself carries."""

    item_id: Id
    reward: Finite | None = None


class Only(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be shown."""

    categories: Annotated[list[Id], Meta(max_length=100)] | None = None


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `schemas.RecommendRequest` says, without `context`."""

    user_id: Id | None = None
    session_id: Id | None = None
    k: Annotated[int, Meta(ge=1, le=MAX_K)] = 10
    candidate_item_ids: Annotated[list[Id], Meta(max_length=MAX_IDS)] | None = None
    exclude_item_ids: Annotated[list[Id], Meta(max_length=MAX_IDS)] = []
    filters: Only | None = None
    history: Annotated[list[Past], Meta(max_length=MAX_PAST)] | None = None
    repeat: slates.Repeat | None = None


class Answer(msgspec.Struct, frozen=True):
    """What `schemas.RecommendResponse` says."""

    recommendation_id: str
    policy_version: int
    arm: str
    items: list[slates.Slot]
    warnings: list[str]


def ask_of(request: RecommendRequest) -> Ask:
    """A request that pydantic has read."""
    return msgspec.convert(request.model_dump(exclude={"context"}), Ask)


_decoder = msgspec.json.Decoder(Ask)
_encoder = msgspec.json.Encoder()


class HotPath:
    """Middleware (plain ASGI) that answers /recommend itself where it can."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection of any kind."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _PATHS:
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
        ask = decoded(body)
        if ask is None:
            scope[guard.ADMITTED] = True
            await self._app(scope, _again(body, receive), send)
            return
        content = encoded(await recommend(ask, state))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class _Route(NamedTuple):
    """Where a request went, for the metrics."""

    path: str


_ROUTE = _Route("/recommend")


async def _body(receive: Receive) -> bytes:
    """The whole body.

    Raises:
        Problem: the client went away before its end. Nobody hears of it, but the metrics.
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
    """A `receive` that tells of a body that was read before."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def decoded(body: bytes) -> Ask | None:
    """The request, None if it is for the route to look at."""
    try:
        ask = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if ask.user_id is None and ask.session_id is None:
        return None
    if not body.isascii() or b"\\" in body:  # only then can an id have more bytes than characters
        ids = [ask.user_id, ask.session_id, *(ask.candidate_item_ids or ()), *ask.exclude_item_ids]
        ids += [past.item_id for past in ask.history or ()]
        if not all(_is_short(name) for name in ids):
            return None
    return ask


def _is_short(name: str | None) -> bool:
    try:
        return name is None or len(name.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def encoded(answer: Answer) -> bytes:
    """The answer as JSON."""
    return _encoder.encode(answer)


async def recommend(ask: Ask, state: State) -> Answer:
    """A slate for a user or an anonymous session. Without Redis it answers from memory and says so in `warnings`."""
    user = sessions.user_key(ask.user_id, ask.session_id)
    known = await session_of(user, state, sessions.visitor_of(ask.user_id, ask.session_id))
    session, redis_answers = known or Session((), (), 0), known is not None
    warnings = [] if redis_answers else ["session_unavailable"]
    live, catalogue = state.watch.current, state.watch.catalogue
    stored, seen = session.named(catalogue.ids)
    history = session_state(stored, seen, state.settings.shown_length)
    if ask.history is not None:
        history = pairs(ask.history, state.settings.largest_reward)
        seen += [past.item_id for past in ask.history]

    categories = ask.filters.categories if ask.filters is not None else None
    repeat = ask.repeat or state.settings.repeat
    chosen = slates.candidates(catalogue, seen, ask.candidate_item_ids, ask.exclude_item_ids, categories, repeat, ask.k)
    if live is None:
        popular = await _popular(state) if redis_answers else []
        slate = slates.fall_back(catalogue, chosen, popular, ask.k)
    else:
        slate, _ = await drawn_for(user, live, catalogue, chosen, history, ask.k, state)
    if slate.impression is not None and (state.lag.too_far or not (redis_answers and await _logged(slate, state))):
        warnings.append("impression_not_logged")
    count(slate.arm, slate.impression, state)
    return Answer(
        recommendation_id=slate.recommendation_id,
        policy_version=slate.policy_version,
        arm=slate.arm,
        items=slate.items,
        warnings=[*warnings, *slate.warnings],
    )


def pairs(history: Sequence[Past | PastInteraction], largest: float) -> tuple[tuple[str, float], ...]:
    """A request's own history, what has no reward being a full like."""
    return tuple([(past.item_id, largest if past.reward is None else past.reward) for past in history])


async def session_of(user: str, state: State, visitor: str | None = None) -> Session | None:
    """A user's session, which a `visitor`'s becomes part of, with the catalogue brought up to date; None if Redis does
    not answer.

    After one failure it is not to be asked again: a request waits for one time-out at most.
    """
    try:
        with telemetry.span("session"):
            if visitor is not None:
                await state.visitors.join(visitor, user)
            session = await state.sessions_of(user)
        if session.catalogue_seq != state.watch.catalogue.seq:
            await state.watch.sync_catalogue(session.catalogue_seq)
    except (RedisError, OSError):
        return None
    return session


async def drawn_for(
    user: str,
    live: LivePolicy,
    catalogue: Catalogue,
    chosen: slates.Candidates,
    history: slates.History,
    k: int,
    state: State,
) -> tuple[slates.Slate, slates.Drawn]:
    """A slate for a user, together with what comes in this turn of the event loop, and how it was drawn."""
    with telemetry.span("draw", version=live.version, k=k):
        arm = state.arm_of(user)
        wishes = slates.wishes(live, catalogue, chosen, history, arm, k, state.rng, state.shadow_rng)
        coming = [state.drawn(wish) for wish in wishes]  # all before the first is waited for
        drawn = [await slate for slate in coming]
        return slates.told(live, catalogue, chosen, history, drawn, user=user, arm=arm, k=k), drawn[0]


def count(arm: str, impression: Impression | None, state: State) -> None:
    """Something was shown, by a policy if there is an impression of it."""
    if impression is not None:
        state.metrics.entropy.set(impression.entropy + 0.0)  # no -0.0
        state.metrics.mix_weight.set(impression.weight)
    state.metrics.impressions.labels(arm).inc()


async def _logged(slate: slates.Slate, state: State) -> bool:
    assert slate.impression is not None
    try:
        with telemetry.span("log"):
            await state.log_impression((slate.impression, slate.places))
    except (RedisError, OSError):
        return False
    return True


async def _popular(state: State) -> list[str]:
    try:
        ids = await state.quick.zrevrange(state.keys.popularity, 0, 999)
    except (RedisError, OSError):
        return []
    return [item.decode() for item in ids]
