"""POST /feedback"""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError, WithJsonSchema

from service.api import back_pressure, responses
from service.api.errors import FieldError, Problem, field_name, invalid
from service.api.guard import needs
from service.api.state import Shared, State
from service.contract.base import MAX_EVENTS, Id
from service.contract.schemas import FeedbackEvent, FeedbackResponse, Rejection
from service.store import sessions, slate_ids
from service.store.events import Feedback

router = APIRouter(tags=["feedback"], route_class=needs("feedback"))
_event: TypeAdapter[FeedbackEvent] = TypeAdapter(FeedbackEvent)
_id: TypeAdapter[str] = TypeAdapter(Id)

_Events = Annotated[list[Any], WithJsonSchema({"type": "array", "maxItems": MAX_EVENTS, "items": {}})]
# Discriminated, so that errors are about what was sent; the tag `body` is left out of a field's name.
_Body = Annotated[
    Annotated[FeedbackEvent, Tag("body")] | Annotated[_Events, Tag("events")],
    Discriminator(lambda body: "events" if isinstance(body, list) else "body"),
    Body(description="One event, or an array of up to 1,000."),
]


@router.post("/feedback", status_code=HTTPStatus.ACCEPTED)
async def feedback(body: _Body, state: Shared) -> FeedbackResponse:
    """Take responses; 202 means that they are durable. Of an array, invalid events come back in `rejected`."""
    back_pressure.check(state.lag)
    if isinstance(body, FeedbackEvent):
        await responses.sync_items([body.item_id], state)
        error = _unacceptable(body, state)
        if error is not None:
            raise invalid([error])
        return await _accept([body], [], state)
    if len(body) > MAX_EVENTS:
        detail = f"At most {MAX_EVENTS} events in one request; this has {len(body)}."
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "too_many_events", detail)
    parsed = [_parsed(raw) for raw in body]
    await responses.sync_items([event.item_id for event in parsed if isinstance(event, FeedbackEvent)], state)
    valid: list[FeedbackEvent] = []
    rejected: list[Rejection] = []
    for index, event in enumerate(parsed):
        error = _unacceptable(event, state) if isinstance(event, FeedbackEvent) else event
        if error is None:
            assert isinstance(event, FeedbackEvent)
            valid.append(event)
        else:
            message = f"{error['field']}: {error['message']}" if error["field"] else error["message"]
            own_id = _event_id(body[index])
            rejected.append(Rejection(index=index, event_id=own_id, code=error["code"], message=message))
    return await _accept(valid, rejected, state)


def _parsed(raw: object) -> FeedbackEvent | FieldError:
    try:
        return _event.validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        return {"field": field_name(first["loc"]), "code": first["type"], "message": first["msg"]}


def _event_id(raw: object) -> str | None:
    """Return the id of an event that is not valid; None if the id itself is wrong."""
    try:
        return _id.validate_python(raw.get("event_id") if isinstance(raw, dict) else None, strict=True)
    except ValidationError:
        return None


def _unacceptable(event: FeedbackEvent, state: State) -> FieldError | None:
    """Return why a well-formed event is not accepted; None if it is."""
    if event.type is not None and event.type not in state.settings.rewards:
        types = ", ".join(sorted(state.settings.rewards))
        return {"field": "type", "code": "unknown_type", "message": f"is not one of {types}"}
    if event.reward is not None and (
        error := responses.out_of_range("reward", event.reward, state.settings.largest_reward)
    ):
        return error
    if event.item_id not in state.watch.catalogue.index:
        return {"field": "item_id", "code": "unknown_item", "message": "is not in the catalogue"}
    return None


async def _accept(events: list[FeedbackEvent], rejected: list[Rejection], state: State) -> FeedbackResponse:
    reward_of_type = state.settings.rewards
    rewards = [reward_of_type.get(event.type or "", 0.0) if event.reward is None else event.reward for event in events]
    logged = [
        Feedback(
            event_id=event.event_id,
            user=sessions.user_key(event.user_id, event.session_id),
            item_id=event.item_id,
            reward=reward,
            recommendation_id=event.recommendation_id,
            type=event.type,
            occurred_at=event.occurred_at,
            explicit=event.undo is None and state.settings.is_explicit(event.type, reward),
            ends=state.settings.ends_visit(event.type),
            undo=event.undo or False,
        )
        for event, reward in zip(events, rewards, strict=True)
    ]
    for visitor, user in dict.fromkeys((sessions.visitor_of(e.user_id, e.session_id), e.user_id) for e in events):
        if visitor is not None:
            await state.sessions.join(visitor, sessions.user_key(user, None))
    accepted = await responses.take(logged, state)
    state.metrics.feedback.labels("rejected").inc(len(rejected))
    window_s = state.settings.reward_window_s
    outcomes = Counter(
        slate_ids.outcome(event.recommendation_id, event.user, window_s)
        for event, fresh in zip(logged, accepted, strict=True)
        if fresh
    )
    return FeedbackResponse(
        accepted=sum(accepted), duplicates=len(accepted) - sum(accepted), rejected=rejected, outcomes=dict(outcomes)
    )
