"""POST /feedback"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import TypeAdapter, ValidationError

from service import sessions
from service.errors import Problem
from service.events import Feedback
from service.routes.recommend import arm_of
from service.schemas import MAX_EVENTS, FeedbackEvent, FeedbackResponse, Rejection
from service.state import Shared, State

router = APIRouter(tags=["feedback"])
_Event = TypeAdapter(FeedbackEvent)


@router.post("/feedback", status_code=HTTPStatus.ACCEPTED)
async def feedback(
    body: Annotated[
        FeedbackEvent | Annotated[list[Any], Body()],
        Body(description="One event, or an array of up to 1,000."),
    ],
    state: Shared,
) -> FeedbackResponse:
    """Take responses; 202 means that they are durable. Of an array, invalid events come back in `rejected`."""
    if isinstance(body, FeedbackEvent):
        problem = await _unacceptable(body, state)
        if problem is not None:
            detail = f"Not valid: {problem[0]}."
            errors = [{"field": problem[0], "code": problem[1], "message": problem[2]}]
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, errors)
        return await _accept([body], [], state)
    if len(body) > MAX_EVENTS:
        detail = f"At most {MAX_EVENTS} events in one request; this has {len(body)}."
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "too_many_events", detail)
    valid: list[FeedbackEvent] = []
    rejected: list[Rejection] = []
    for index, raw in enumerate(body):
        event_id = raw.get("event_id") if isinstance(raw, dict) and isinstance(raw.get("event_id"), str) else None
        try:
            event = _Event.validate_python(raw)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            message = f"{field}: {first['msg']}" if field else first["msg"]
            rejected.append(Rejection(index=index, event_id=event_id, code=first["type"], message=message))
            continue
        problem = await _unacceptable(event, state)
        if problem is not None:
            message = f"{problem[0]}: {problem[2]}"
            rejected.append(Rejection(index=index, event_id=event_id, code=problem[1], message=message))
        else:
            valid.append(event)
    return await _accept(valid, rejected, state)


async def _unacceptable(event: FeedbackEvent, state: State) -> tuple[str, str, str] | None:
    """Field, code and message of what keeps a well-formed event out."""
    if event.type is not None and event.type not in state.settings.rewards:
        known = ", ".join(sorted(state.settings.rewards))
        return "type", "unknown_type", f"is not one of {known}"
    if event.item_id not in state.watch.catalogue.index:
        await state.watch.sync_catalogue()
        if event.item_id not in state.watch.catalogue.index:
            return "item_id", "unknown_item", "is not in the catalogue"
    return None


async def _accept(events: list[FeedbackEvent], rejected: list[Rejection], state: State) -> FeedbackResponse:
    logged = [
        Feedback(
            event_id=event.event_id,
            user=sessions.user_key(event.user_id, event.session_id),
            item_id=event.item_id,
            reward=event.reward if event.reward is not None else state.settings.rewards[event.type or ""],
            recommendation_id=event.recommendation_id,
            type=event.type,
            occurred_at=event.occurred_at,
        )
        for event in events
    ]
    accepted = await state.log.append_feedback(logged) if logged else []
    for event, fresh in zip(logged, accepted, strict=True):
        state.metrics.feedback.labels("accepted" if fresh else "duplicate").inc()
        if fresh and event.reward > 0:
            state.metrics.reward.labels(str(arm_of(state, event.user))).inc(event.reward)
    state.metrics.feedback.labels("rejected").inc(len(rejected))
    return FeedbackResponse(accepted=sum(accepted), duplicates=len(accepted) - sum(accepted), rejected=rejected)
