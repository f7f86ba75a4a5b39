"""Answer Azure Personalizer's clients by our policies: an action is an item, an event is a slate of one.

The same items are ranked again and again there, so that what a user has seen is not masked, unlike for /recommend. All
else is as there: whose arm it is, which policy draws, what is logged and what is learned from it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from http import HTTPStatus
from uuid import uuid4

import numpy as np
from redis.exceptions import RedisError

from service.api import back_pressure, items, responses
from service.api.errors import FieldError, Problem, invalid, no_policy, redis_away
from service.api.features import facts_in, find_user, text_of
from service.api.state import State
from service.contract.items import ItemBody
from service.contract.personalizer import RankableAction, RankedAction, RankRequest, RankResponse
from service.policy.types import session_state
from service.serving import slates
from service.serving.recommender import with_user
from service.serving.slates import Restrictions, find_candidates
from service.store import ranked, sessions
from service.store.events import Feedback
from service.store.ranked import Ranked
from service.store.sessions import Session

_NOBODY = Session((), (), 0)


async def rank(request: RankRequest, may_add: bool, state: State) -> RankResponse:
    """Draw one of the actions. `may_add`: those that are not items yet are added to the catalogue.

    Without Redis it answers from memory; then the event is not remembered, and nothing is learned from it.
    """
    ids = [action.id for action in request.actions]
    excluded = request.excluded_actions or []
    _check(ids, excluded)
    event_id = request.event_id if request.event_id is not None else uuid4().hex
    user = find_user(request.context_features) or sessions.user_key(None, event_id)
    session = await state.recommender.session(user)
    await _add_missing(request.actions, session is not None, may_add, state)
    live, catalogue = state.watch.current, state.watch.catalogue
    if live is None:
        raise no_policy()
    history = session_state(*(session or _NOBODY).named(catalogue.ids), state.settings.shown_length)
    chosen = find_candidates(catalogue, (), Restrictions(1, ids, excluded), time.time())
    places = np.array([catalogue.index[item] for item in ids])
    allowed = chosen.available[places]
    if not allowed.any():
        raise _nothing_left()
    context = with_user(facts_in(request.context_features), session or _NOBODY)
    slate, drawn = await state.recommender.draw(user, live, catalogue, chosen, history, 1, context=context)
    assert slate.impression is not None
    item = slate.items[0].item_id
    is_shown = not request.defer_activation
    if session is not None:
        kept_back = None if is_shown else slate.impression
        ours = Ranked(user, item, slate.recommendation_id, kept_back)
        named = {name for name, free in zip(ids, allowed, strict=True) if free}
        theirs = await _remembered(event_id, ours, slate, named, state)
        item, is_shown = theirs.item, is_shown and theirs is ours
    if is_shown:
        state.metrics.count_slate(slate.arm, slate.impression)
    probabilities = drawn.distribution.probabilities(places).tolist()
    return RankResponse(
        ranking=ranking(ids, probabilities, allowed.tolist(), item), event_id=event_id, reward_action_id=item
    )


async def reward(event_id: str, value: float, state: State) -> None:
    """The reward of an event, durable when this returns. The first one counts, and none if it was never activated.

    Raises:
        Problem: 422, no reward can be so large; 404, no such event is remembered; 503, the worker is too far behind.
    """
    back_pressure.check(state.lag)
    if error := responses.out_of_range("value", value, state.settings.largest_reward):
        raise invalid([error])
    event, _ = await _event(event_id, state)
    if event.impression is not None:
        return
    response = Feedback(
        event_id=f"personalizer:{event_id}",
        user=event.user,
        item_id=event.item,
        reward=value,
        recommendation_id=event.recommendation_id,
        explicit=state.settings.is_explicit(None, value),
    )
    marks = [state.keys.rewarded(event.recommendation_id)]
    await responses.take([response], state, marks, remembered=not ranked.is_alone(event_id, event.user))


async def activate(event_id: str, state: State) -> None:
    """Record that an event whose activation was deferred was shown; one that is activated already stays as it is.

    Raises:
        Problem: 404, no such event is remembered; 503, the worker is too far behind.
    """
    back_pressure.check(state.lag)
    event, held = await _event(event_id, state)
    while event.impression is not None:
        instead = await state.ranked.activate(event_id, held, event, state.watch.catalogue.index[event.item])
        if instead is None:
            state.metrics.count_slate(event.impression.arm, event.impression)
            return
        event, held = await _event(event_id, state)  # somebody else was here


def ranking(
    ids: Sequence[str], probabilities: Sequence[float], allowed: Sequence[bool], first: str
) -> list[RankedAction]:
    """`first`, then by falling probability; what is not allowed stays where it is."""
    order = [place for place in range(len(ids)) if allowed[place]]
    order.sort(key=lambda place: (ids[place] != first, -probabilities[place]))
    coming = iter(order)
    places = [next(coming) if free else place for place, free in enumerate(allowed)]
    return [RankedAction(id=ids[place], probability=min(1.0, probabilities[place])) for place in places]


def _check(ids: Sequence[str], excluded: Sequence[str]) -> None:
    errors: list[FieldError] = [
        {"field": f"actions.{n}.id", "code": "repeated_id", "message": "comes twice"}
        for n, item in enumerate(ids)
        if item in ids[:n]
    ]
    errors += [
        {"field": f"excludedActions.{n}", "code": "unknown_action", "message": "is not one of the actions"}
        for n, item in enumerate(excluded)
        if item not in ids
    ]
    if errors:
        raise invalid(errors)
    if set(excluded) >= set(ids):
        raise _nothing_left()


def _nothing_left() -> Problem:
    message = "are all excluded, hidden or deleted"
    return invalid([{"field": "actions", "code": "nothing_left", "message": message}])


async def _add_missing(actions: Sequence[RankableAction], redis_answers: bool, may_add: bool, state: State) -> None:
    """Add the actions that are not items yet, if `may_add`. The catalogue is up to date, if Redis answers."""
    unknown = [n for n, action in enumerate(actions) if action.id not in state.watch.catalogue.index]
    if not unknown:
        return
    if not redis_answers:
        raise redis_away()
    if not may_add:
        errors: list[FieldError] = [
            {"field": f"actions.{n}.id", "code": "unknown_action", "message": "is not in the catalogue"}
            for n in unknown
        ]
        detail = (
            f"Not in the catalogue: {', '.join(error['field'] for error in errors)}."
            " Put the item with PUT /items, or use a key with the scope admin."
        )
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "unknown_action", detail, errors)
    new = [(actions[n].id, ItemBody(text=text_of(actions[n].id, actions[n].features))) for n in unknown]
    await items.put(new, state, replace=False)


async def _remembered(event_id: str, ours: Ranked, slate: slates.Slate, allowed: set[str], state: State) -> Ranked:
    """Choose the event's answer: an earlier one as long as it is allowed, or ours. Ours too if Redis fails, or if the
    worker is too far behind for another event to be remembered."""
    assert slate.impression is not None
    replaced = b""
    try:
        while True:
            held = (
                await state.ranked.get(event_id)
                if state.lag.too_far
                else await state.ranked.remember(event_id, ours, slate.impression, slate.places[0], replaced)
            )
            if held is None or held == replaced:
                return ours
            earlier = ranked.decode(held)
            if earlier is not None and earlier.item in allowed:
                return earlier
            replaced = held
    except (RedisError, OSError):
        return ours


async def _event(event_id: str, state: State) -> tuple[Ranked, bytes]:
    """Load an event whose item is in this process's catalogue, and its bytes as stored."""
    held = await state.ranked.get(event_id)
    event = ranked.decode(held) if held is not None else None
    if event is not None:
        await responses.sync_items([event.item], state)
    if held is None or event is None or event.item not in state.watch.catalogue.index:
        detail = (
            "There is no such event, or its time is over: events are remembered for the reward window"
            f" ({state.settings.reward_window_s:g} s, IALP_REWARD_WINDOW_S), twice as long before they are activated."
        )
        raise Problem(HTTPStatus.NOT_FOUND, "unknown_event", detail)
    return event, held
