"""POST /explain"""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter

from service.api.errors import no_policy
from service.api.guard import needs
from service.api.openapi import problems
from service.api.state import Shared
from service.contract.operator import ExplainedItem, ExplainRequest, ExplainResponse, NearItem, RememberedItem
from service.policy.variants import Arm
from service.store import sessions

router = APIRouter(tags=["users"], route_class=needs("admin"))
_NEAREST = 3


@router.post("/explain", responses=problems(503))
async def explain(request: ExplainRequest, state: Shared) -> ExplainResponse:
    """Find the liked items of a user that are closest to others, in the policy that serves them. Changes nothing."""
    user = sessions.user_key(request.user_id, request.session_id)
    session = await state.session(user)
    live, catalogue = state.watch.current, state.watch.catalogue
    if live is None:
        raise no_policy()
    arm = Arm.CONTROL if live.is_frozen else state.recommender.arm_of(user)
    history = [(place, reward) for place, reward in session.history if place < len(catalogue)]
    liked = list(dict.fromkeys(place for place, reward in reversed(history) if reward > 0))
    requested = [catalogue.index[item] for item in dict.fromkeys(request.item_ids) if item in catalogue.index]
    closeness = live.policy.closeness(np.array(requested, np.intp), np.array(liked, np.intp), arm)
    places = list(dict.fromkeys([*requested, *(place for place, _ in history)]))
    ids = [catalogue.ids[place] for place in places]
    records = dict(zip(places, await state.watch.store.get_many(ids), strict=True))
    return ExplainResponse(
        arm=arm.value,
        policy_version=live.version,
        history=[
            RememberedItem(item_id=catalogue.ids[place], text=records[place].text, reward=reward)
            for place, reward in history
        ],
        items=[
            ExplainedItem(
                item_id=catalogue.ids[place],
                text=records[place].text,
                categories=list(records[place].categories),
                nearest=[
                    NearItem(
                        item_id=catalogue.ids[liked[n]], text=records[liked[n]].text, closeness=round(float(near[n]), 4)
                    )
                    for n in np.argsort(-near)[:_NEAREST].tolist()
                    if liked[n] != place
                ],
            )
            for place, near in zip(requested, closeness, strict=True)
        ],
    )
